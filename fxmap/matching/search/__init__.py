"""Search: find pairs of corresponding operations by comparing their values."""
