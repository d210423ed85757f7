"""`fxmap demo`: load a fine-tuned float model into its quantized forms, and measure the results."""
