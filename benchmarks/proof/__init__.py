"""Attempts to have wrong mappings proven."""
