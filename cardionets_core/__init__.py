"""The science of CardioNets: data, models, training, evaluation. No network, no tracker."""

__version__ = "0.1.0"
