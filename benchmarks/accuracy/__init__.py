"""`python -m benchmarks accuracy`: fxmap and its peers on the same pairs of models, in the same run."""
