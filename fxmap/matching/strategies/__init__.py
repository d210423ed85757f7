"""Strategies: every way in which a mapping is found, one a file, and the list in which they are tried."""
