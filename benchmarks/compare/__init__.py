"""Two runs of a benchmark side by side."""
