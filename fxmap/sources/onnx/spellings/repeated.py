"""Tables that an exporter made of fewer numbers: each number of a table of relative positions stands at many places.

The code looks a bias up in a table, once for every pair of positions; the exporter does so beforehand, and the file holds
the result. Read as what it is, each number at the first of its places, other weights leave it such a table as well.

>>> import torch
>>> table, places = torch.tensor([[1.0, 4.0], [2.0, 5.0], [3.0, 6.0]]), torch.tensor([[1, 0, 0], [2, 1, 0], [2, 2, 1]])
>>> bias = table[places].permute(2, 0, 1)
>>> first = first_places(bias)
>>> first[0].tolist(), torch.equal(bias.flatten()[first], bias)
([[0, 1, 1], [3, 0, 1], [3, 3, 0]], True)
"""

from collections.abc import Mapping, Set

import torch
from torch import Tensor

from fxmap.sources.onnx.spellings.roles import Role

# What may stand between a table and the sum that it is a part of.
_READERS = {"Add", "Concat", "Expand", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"}


def repeated(values: Mapping[str, Tensor], roles: Mapping[str, Set[Role]]) -> dict[str, Tensor]:
    """Return, for the tables among some weights, the first place of each of their numbers, by the names of the tables.

    Args:
        values: weights by their names.
        roles: what reads them.
    """
    tables = {
        name: value
        for name, value in values.items()
        if roles.get(name) and all(kind in _READERS for kind, _ in roles[name]) and value.is_floating_point()
    }
    found = {name: first_places(value) for name, value in tables.items()}
    return {name: places for name, places in found.items() if places is not None}


def first_places(value: Tensor) -> Tensor | None:
    """Return, for each element, the place of the first one that is the same number of a table; None where it is no table.

    A row of the table has a number for each head, along the last axis or before two of positions; each row stands at two
    places or more in the mean, and there are several.
    """
    numbers = torch.arange(value.numel()).view(value.shape)
    for axis in (-3, -1):
        if value.dim() < max(-axis, 2):
            continue
        rows, count = value.movedim(axis, -1).flatten(0, -2), value.shape[axis]
        _, back = torch.unique(rows, dim=0, return_inverse=True)
        different = int(back.max()) + 1 if back.numel() else 0
        if not 2 < different <= len(rows) // 2:
            continue
        first = torch.full((different,), len(rows)).scatter_reduce(0, back, torch.arange(len(rows)), "amin")
        moved = value.movedim(axis, -1).shape
        return numbers.movedim(axis, -1).reshape(-1, count)[first[back]].view(moved).movedim(-1, axis).contiguous()
    return None
