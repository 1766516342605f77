"""Evaluation on held-out patients: sums that add up across sites, and what they say."""
