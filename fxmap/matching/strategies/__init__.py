"""Strategies: the ways to find a mapping, one in each file, and the list that gives the order in which they are tried."""
