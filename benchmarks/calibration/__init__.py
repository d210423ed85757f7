"""Ranges of int8 from real images, from distilled ones, and clamped, against float."""
