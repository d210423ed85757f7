"""Attacks: damaged and hostile files, mappings, names and numbers, and how many of them were survived."""
