"""Lookups: which inputs index embedding tables, seen in a run of the user's own code.

What an integer means follows from what the code does with it: an index may take every row of its table, and no more.

>>> from fxmap.model.inputs import as_inputs
>>> table, ids = torch.nn.Embedding(50, 4), as_inputs(torch.tensor([[1, 2, 3]]))
>>> watch = Lookups(ids.flat())
>>> with torch.no_grad(), watch:
...     _ = table(ids.args[0].clone())
>>> watch.rows
{0: 50}

Cost: a dictionary lookup for every operation of the run.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fxmap.model.dispatch import DispatchMode

_aten = torch.ops.aten
# What gives an input's integers as they are, in a storage of their own.
_COPIES = (_aten.clone.default, _aten._to_copy.default, _aten.lift_fresh_copy.default)


class Lookups(DispatchMode):
    """Records which inputs index embedding tables: those whose storage, or a copy of it, holds the indices.

    Attributes:
        rows: the number of rows of the smallest table that an input indexes, by the input's position.
    """

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self.rows: dict[int, int] = {}
        self._places: dict[int, int] = {}
        # Storages that are freed during a run may come back as those of other tensors.
        self._alive: list[Tensor] = []
        for place, value in enumerate(inputs):
            if not value.is_floating_point() and not value.is_complex():
                self._note(value, place)

    def _note(self, tensor: Tensor, place: int) -> None:
        self._places[tensor.untyped_storage()._cdata] = place
        self._alive.append(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation; note copies of inputs, and the rows of a table that an input indexes."""
        result = func(*args, **(kwargs or {}))
        if func is _aten.embedding.default and (place := self._place(args[1])) is not None:
            self.rows[place] = min(self.rows.get(place, args[0].shape[0]), args[0].shape[0])
        elif func in _COPIES and (place := self._place(args[0])) is not None:
            self._note(result, place)
        return result

    def _place(self, tensor: Tensor) -> int | None:
        return self._places.get(tensor.untyped_storage()._cdata)
