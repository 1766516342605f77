"""Faults on purpose: kills, cuts and corruption, and the table of what they cost."""
