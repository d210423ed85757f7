"""Listed: numbers that a model takes as a list, one or several for each sample: lengths, sizes of images, labels.

They stand beside tensors, and have to change with them: with a list of two lengths, no batch of four is accepted. So a list
is drawn as a tensor is, and the models are given a list again.

>>> from fxmap.model.inputs import as_inputs
>>> given = as_inputs((torch.zeros(2, 6), [6, 4]), lambda model, x, lengths: lengths)
>>> both, tables = as_drawn((given, given), ({}, {}))
>>> both[0].args[1], both[0].call(torch.nn.Identity())
(tensor([6, 4]), [6, 4])

Cost: linear in what the arguments hold.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fxmap.model.inputs import Inputs
from fxmap.model.nested import Path, changed, leaves
from fxmap.prove.inputs.samples import Both, common_batch

Tables = tuple[Mapping[int, int], Mapping[int, int]]


def as_drawn(both: Both, tables: Tables) -> tuple[Both, Tables]:
    """Return inputs with tensors in the place of lists that have one item for each sample, and the tables by their places.

    The inputs themselves are returned where there are no such lists.
    """
    ours, theirs = (_listed(inputs) for inputs in both)
    if not ours and not theirs:
        return both, tables
    (one, first), (other, second) = (_drawn(*given) for given in zip(both, (ours, theirs), tables, strict=True))
    return (one, other), (first, second)


def _listed(inputs: Inputs) -> dict[Path, list[type]]:
    """Return the places of the lists that have one item for each sample, with the classes of the containers."""
    batch = common_batch(inputs.flat()) if inputs.flat() else None
    if inputs.flat() and batch is None:
        return {}
    held = list(leaves((inputs.args, dict(inputs.kwargs)), whole=lambda _, value: bool(_shape(value))))
    found = [(path, value) for path, value in held if _shape(value)]
    count = batch or (len(found[0][1]) if found else 0)
    return {path: _classes(value) for path, value in found if len(value) == count}


def _shape(value: Any) -> tuple[int, ...]:
    """Return the extents of nested lists or tuples of numbers of one class; none for other values."""
    if type(value) not in (list, tuple) or not value:
        return ()
    if all(type(part) in (bool, int, float) and type(part) is type(value[0]) for part in value):
        return (len(value),)
    shapes = {_shape(part) for part in value}
    inner = shapes.pop()
    return (len(value), *inner) if inner and not shapes else ()


def _classes(value: Any) -> list[type]:
    return [type(value), *_classes(value[0])] if type(value) in (list, tuple) else []


def _drawn(inputs: Inputs, listed: Mapping[Path, list[type]], rows: Mapping[int, int]) -> tuple[Inputs, Mapping[int, int]]:
    def as_tensor(path: Path, value: Any) -> Any:
        # A word is no number, and `whole` stops at lists alone.
        return torch.tensor(value) if path in listed else value

    def as_list(path: Path, value: Any) -> Any:
        return _nested(value.tolist(), listed[path]) if path in listed and isinstance(value, Tensor) else value

    def forward(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = changed((args, kwargs), as_list)
        return replace(inputs, args=args, kwargs=kwargs).call(model)

    given = inputs.args, dict(inputs.kwargs)
    args, kwargs = changed(given, as_tensor, whole=lambda path, _: path in listed)
    places = [path for path, value in leaves((args, kwargs)) if isinstance(value, Tensor)]
    own = [place for place, path in enumerate(places) if path not in listed]
    found = replace(inputs, args=args, kwargs=kwargs, forward=forward)
    return found.double(), {own[place]: count for place, count in rows.items()}


def _nested(value: Any, classes: list[type]) -> Any:
    return classes[0](_nested(part, classes[1:]) for part in value) if classes else value
