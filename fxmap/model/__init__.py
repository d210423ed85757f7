"""Models and their inputs: example inputs, wrappers, replicas, tensors in nested values."""
