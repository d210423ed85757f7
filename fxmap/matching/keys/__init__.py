"""Match the keys of two state dicts without a graph, by shapes, names and order alone."""
