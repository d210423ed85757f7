"""Quantized forms of models: how each is made float, named, and filled.

A form stands in one file (`eager.py`, `fx_mode.py`, `reference.py`, `pt2e.py`, `torchao.py`, `quanto.py`, `plain.py`) and
has one entry in `registry.py`; `form.py` says what it consists of. `twin.py` removes the quantization from a model by
the rules of the forms. Packages of quantization are imported only where a model holds their modules.
"""
