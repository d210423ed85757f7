"""Expressions: how one destination tensor is made from source tensors."""
