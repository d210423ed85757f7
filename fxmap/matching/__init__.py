"""Match two models: find pairs of corresponding operations, and derive every key of the state dict from them."""
