"""Align: find pairs of corresponding operations of two graphs by structure."""
