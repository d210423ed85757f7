"""Models and what they are called with: inputs, wrappers, replicas, the tensors of what they return."""
