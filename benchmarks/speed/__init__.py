"""Seconds of every stage, by the size of the network."""
