"""Differential privacy of a site's training, and what judges it: docs/privacy.md."""
