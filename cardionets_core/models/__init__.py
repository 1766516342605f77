"""CardioNets, part by part; `build_model` in cardionet.py is the door."""
