"""Quantized forms of models made by torch and torchao alone, and what is right of them.

- `models`: torchvision's models with random values.
- `forms`: every form of a torchvision model, from fused to int8, by torch's own eager steps.
- `graphs`: the forms whose models are graphs: FX mode and PT2E.
- `layers`: a model with the layers that torchvision does not use, and its eager forms.
- `state_dicts`: which keys of a form have a float source, and the way from int8 back to float.
"""
