"""Capture: from a model to an fx graph of functions."""
