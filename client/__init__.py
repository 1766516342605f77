"""The hospital: one Flower ClientApp, its policy and its local training."""
