"""The mapping: what a user holds, applies, loads, saves and reads."""
