"""Prove: what running both models shows of a mapping."""
