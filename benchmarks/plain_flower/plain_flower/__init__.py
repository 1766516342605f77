"""Plain Flower over CardioNets' model: the peer of the measurements."""
