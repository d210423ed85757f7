"""Attacks on a proof, one file a kind: models that agree on special inputs and differ on others; and equal pairs."""
