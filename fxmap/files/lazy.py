"""Lazy tensors: shape and dtype of a tensor that is computed, or read from a file, when an operation needs its numbers.

Code that reads `shape` and `dtype` costs nothing; slices of a lazy tensor are lazy, and read their own region alone; any
other operation of torch reads the numbers, and drops them when it is done. What is read is never kept, so that a model is
filled with one tensor in memory beside it.

>>> import torch
>>> from fxmap.expressions.regions import extents
>>> lazy = LazyTensor((4, 2), torch.float32, lambda region: print("read", region) or torch.ones(extents(region)))
>>> part = lazy[1:3]
>>> part.shape, part.dtype
(torch.Size([2, 2]), torch.float32)
>>> part + 1
read ((1, 3), (0, 2))
tensor([[2., 2.],
        [2., 2.]])
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from fxmap.expressions.regions import Region, extents, whole

Read = Callable[[Region], Tensor]


class LazyTensor(Tensor):
    """A tensor of the CPU whose numbers are made by a function of the region that is wanted.

    Args:
        shape, dtype: of the whole tensor.
        make: returns the numbers of a region, as a tensor of its shape and dtype. It may be called several times.
        region: the part of the whole that this tensor is; by default all of it.

    Writing into a lazy tensor raises a RuntimeError.
    """

    _make: Read
    _region: Region

    @staticmethod
    def __new__(cls, shape: Sequence[int], dtype: torch.dtype, make: Read, region: Region | None = None) -> "LazyTensor":
        region = whole(shape) if region is None else region
        made: LazyTensor = torch.Tensor._make_wrapper_subclass(cls, extents(region), dtype=dtype)
        made._make, made._region = make, region
        return made

    def __init__(self, *_: object, **__: object) -> None:
        super().__init__()

    @property
    def region(self) -> Region:
        """The part of the whole that this tensor is."""
        return self._region

    @property
    def origin(self) -> object:
        """Return what makes the numbers, where that is a method of something, such as of a place in a file; else None."""
        return getattr(self._make, "__self__", None)

    def read(self) -> Tensor:
        """Return the numbers, as a plain tensor."""
        return self._make(self._region)

    def part(self, region: Region) -> "LazyTensor":
        """Return a region of this tensor, lazily."""
        inside = tuple((begin + start, begin + stop) for (begin, _), (start, stop) in zip(self._region, region, strict=True))
        return LazyTensor(extents(inside), self.dtype, self._make, inside)

    def __repr__(self, **_: object) -> str:  # type: ignore[override]
        return f"LazyTensor({list(self.shape)}, {self.dtype})"

    def __deepcopy__(self, memo: Any) -> Tensor:
        return self.read().clone()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.read().__reduce_ex__(protocol)  # type: ignore[no-untyped-call]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        first = args[0] if args else None
        if isinstance(first, LazyTensor):
            if func in (torch.ops.aten.detach.default, torch.ops.aten.alias.default):
                return first.part(whole(first.shape))
            if func is torch.ops.aten.slice.Tensor and (args[4] if len(args) > 4 else 1) == 1:
                return first.part(_sliced(first.shape, *args[1:4]))
            if func._schema.is_mutable:
                raise RuntimeError(f"{func}: a tensor that lies in a file cannot be written to; clone it first")
        plain_args, plain_kwargs = tree_map_only(LazyTensor, materialise, (args, kwargs or {}))
        return func(*plain_args, **plain_kwargs)


def _sliced(shape: Sequence[int], axis: int = 0, start: int | None = None, stop: int | None = None) -> Region:
    """Return the region that a slice of one axis leaves, by the rules of torch for bounds beyond the ends."""
    region = list(whole(shape))
    begin, end, _ = slice(start, stop).indices(shape[axis])
    region[axis] = begin, max(begin, end)
    return tuple(region)


def materialise(value: Any) -> Any:
    """Return the numbers of a lazy tensor; any other value as it is."""
    return value.read() if isinstance(value, LazyTensor) else value
