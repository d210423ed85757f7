"""Rewrites of recorded graphs: equations that hold for every input."""
