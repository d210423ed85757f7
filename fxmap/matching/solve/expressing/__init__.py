"""Write solved weights as expressions of the source's tensors."""
