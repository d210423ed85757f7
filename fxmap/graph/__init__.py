"""The operation graph: what two models are compared by, and what is known of its operations."""
