"""Call both models otherwise than the example: arguments, options, types, in combination and in turn."""
