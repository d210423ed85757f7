"""Normalise: equivalences of operations, one a file."""
