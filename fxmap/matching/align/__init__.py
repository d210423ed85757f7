"""Align: which operation of one graph is which of the other, by structure."""
