"""Pairs of public implementations of one network."""
