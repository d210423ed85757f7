"""Read and follow the user's code: where it chooses, what the choice depends on, and which way it went."""
