"""What tests and benchmarks of fxmap share, and what you need to test a mapping of your own.

- `randomise`: draws random weights and statistics for any model, at which mistakes show and activations stay finite.
- `planted`, `planted_tokens`: random networks built twice under other names, orders and layouts; the mapping is known.
- `generated`: networks of any size in two implementations, to measure speed with.
- `branches`: a small network with what graphs of quantization make hard.
- `renamed`: renames every submodule of a real model at random, in place.
- `recipes`: quantized forms of models, and what the state dict of each must be.
- `compare`: values bit by bit, and outputs by their signal-to-noise ratio.

What is right is never asked of fxmap here: nothing in this package imports the rest of fxmap, and the rest does not import
this package.

>>> import fxmap
>>> from fxmap.testing.planted import planted_pair
>>> src, dst, source_of = planted_pair(seed=0)  # the same layers under other names
>>> mapping = fxmap.auto_map(src, dst, verify=False)
>>> layers = [key.removesuffix(".weight") for key in mapping.renames if key.endswith(".weight") and "_norm" not in key]
>>> all(mapping.renames[f"{layer}.weight"] == f"{source_of[layer]}.weight" for layer in layers)
True
"""
