"""Two state dicts without a graph: which key is which, from shapes, names and order alone."""
