"""Run both networks on many samples: static graphs, drawn inputs, values stacked by sample."""
