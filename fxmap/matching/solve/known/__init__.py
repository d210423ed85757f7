"""What the source has: its values and numbers, found again by prints, and parts of it as data."""
