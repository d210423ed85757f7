"""Every quantized form of a model, filled by fxmap and compared with its independent reference."""
