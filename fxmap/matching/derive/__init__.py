"""Derive: from aligned operations to one expression for each tensor of the destination."""
