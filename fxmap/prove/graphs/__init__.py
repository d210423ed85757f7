"""Compare the captured graphs, operation by operation: which are the same, and where two models differ first."""
