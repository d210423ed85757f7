"""The scale benchmark: memory, throughput beside cp, and ranks."""
