"""Whole federations on one machine, with the same two apps that hospitals run."""
