"""Codes of diagnoses and fields -> the project's own names, by versioned tables."""
