"""Change tensors in both models alike, to see which ones outputs depend on that no mapping shows."""
