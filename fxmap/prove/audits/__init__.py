"""Run the user's own code of both models on inputs that the example does not have, and compare the outputs."""
