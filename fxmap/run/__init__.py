"""Run captured graphs on values: example inputs, random tensors, two models side by side."""
