"""Sends arrays to a site and gets them back."""
