"""Objectives, the loop and the stages; free of the network."""
