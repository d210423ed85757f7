"""All that fxmap knows of torch.ao.quantization, whose modules are imported only where a model holds them."""
