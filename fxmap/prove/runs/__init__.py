"""Run both models with the proof's tensors: the captured graphs, then the user's own code; the record of what it showed."""
