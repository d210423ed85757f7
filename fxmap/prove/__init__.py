"""Prove: run both models with random weights to prove or refute a mapping."""
