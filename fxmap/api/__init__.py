"""The public functions: auto_map, transfer, load and verify."""
