"""The operation graph, in which two models are compared, and the table of kinds of operations."""
