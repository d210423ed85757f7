"""Rules: each an equation between operations that holds for every input."""
