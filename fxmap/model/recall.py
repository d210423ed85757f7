"""Recall: products that were computed before, of the same numbers with the same weight, are not computed again.

A proof runs two models with one set of weights, on the same inputs, and each of them on inputs that differ in a detail. Up
to where they part they multiply the same numbers with the same weights, and the products are most of their cost. So these
are kept: by the weight's place in memory, and the other operands, number by number. What the models do around them, and what
they multiply, is all run.

>>> weight, x = torch.randn(512, 512, dtype=torch.float64), torch.randn(2, 512, dtype=torch.float64)
>>> with recalling([weight]):
...     recall = active()
...     one, other = (recall.product(torch.mm, (x, weight), {}, torch.mm) for _ in range(2))
>>> torch.equal(one, other), recall.hits
(True, 1)

Cost: a comparison and two copies of the operands, which are small beside the weight; half as much memory as the weights.
Source: memoisation, D. Michie, "Memo" functions and machine learning, Nature 218 (1968) 19-22, doi:10.1038/218019a0.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fxmap.model.few_rows import is_plain

# Weights of fewer numbers are multiplied as fast as products are looked up.
_LARGE = 1 << 15
# A product is kept if it takes so many multiplications for each number that is compared or copied.
_WORTH = 128
# A few times what float64 rounds.
_ROUNDING = 4e-15
# By these, code may get hold of a tensor's memory, and write to it unseen.
_HANDED_OUT = frozenset(("numpy", "__array__", "__dlpack__", "data_ptr", "untyped_storage", "storage"))
# These write to their table if rows have a largest norm.
_TABLES = frozenset(("embedding", "embedding_bag"))

_ARITHMETIC = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor", "lshift", "rshift", "matmul")
_WRITING = frozenset(("__setitem__", "__idiv__", *(f"__i{name}__" for name in _ARITHMETIC)))
_HARMLESS = frozenset(("requires_grad_", "detach_"))

# The functions whose results are kept.
_MATRICES = (torch.matmul, torch.mm, torch.addmm, Tensor.matmul, Tensor.__matmul__)
PRODUCTS = frozenset((F.linear, torch.conv1d, torch.conv2d, torch.conv3d, *_MATRICES))


@dataclass(frozen=True, eq=False)
class _Product:
    """The result of one product. `key` is all that has to be equal beside the `operands`; `run` says when it was made."""

    key: object
    operands: tuple[Tensor, ...]
    result: Tensor
    run: int

    @property
    def size(self) -> int:
        return self.result.numel() + sum(operand.numel() for operand in self.operands)


@dataclass(frozen=True)
class _Call:
    """A call of a function of `PRODUCTS`: what has to be equal at once, what is compared by numbers, and the weight."""

    key: tuple[object, ...]
    operands: tuple[Tensor, ...]
    weight: Tensor


class Recall:
    """The products of some weights, which nothing may write to: what does is noticed, and all products are forgotten.

    Attributes:
        hits: how many products were not computed again.
        rounding: by how much operands may differ, relative to the largest number, and be taken for the same.
    """

    def __init__(self, weights: Iterable[Tensor]) -> None:
        known = [tensor for tensor in weights if is_plain(tensor) and tensor.numel() >= _LARGE]
        sizes = {_place(tensor): tensor.numel() for tensor in known}
        # Held, so that no other tensor comes to lie in their place.
        self._memory = [tensor.untyped_storage() for tensor in known]
        self._places, self._room = set(sizes), sum(sizes.values()) // 2
        self._known: dict[object, list[_Product]] = {}
        self._order: deque[_Product] = deque()
        self._run = self.hits = 0
        self.rounding = 0.0

    @property
    def has_weights(self) -> bool:
        """Whether there is a weight whose products are kept."""
        return bool(self._memory)

    @property
    def is_unwritten(self) -> bool:
        """Whether no function has written to a weight, or may have."""
        return bool(self._places)

    def next_run(self) -> None:
        """Begin another run: products of earlier ones make room for its own."""
        self._run += 1

    def product(self, func: Any, args: Any, kwargs: Mapping[str, Any], compute: Callable[..., Any]) -> Any:
        """Return what `compute` returns for the arguments of a function: computed, or as it was before."""
        call = self._call(func, args, kwargs)
        if call is None:
            return compute(*args, **kwargs)
        for known in reversed(self._known.get(call.key, [])):
            if all(_is_same(one, other, self.rounding) for one, other in zip(known.operands, call.operands, strict=True)):
                self.hits += 1
                return known.result.clone()
        result = compute(*args, **kwargs)
        if is_plain(result):
            self._keep(call, result)
        return result

    def watch(self, name: str, args: Any, kwargs: Mapping[str, Any]) -> None:
        """Forget all products if a function of this name may write to a weight."""
        written: Any
        if name in _TABLES and kwargs.get("max_norm") is not None:
            written = args[1:2]
        elif _writes(name) or name in _HANDED_OUT:
            first = next(iter((*args[:1], *kwargs.values())), None)
            written = first if isinstance(first, list | tuple) else (first,)
        elif "out" in kwargs:
            written = (kwargs["out"],)
        else:
            return
        if any(is_plain(tensor) and _place(tensor) in self._places for tensor in written):
            self._places.clear()
            self._known.clear()
            self._order.clear()

    def _call(self, func: Any, args: Any, kwargs: Mapping[str, Any]) -> _Call | None:
        """Read the arguments of a call; None if none of them is a weight, or a gradient is recorded."""
        key: list[object] = [func]
        operands: list[Tensor] = []
        weight: Tensor | None = None
        for name, value in (*enumerate(args), *kwargs.items()):
            if not isinstance(value, Tensor):
                key.append((name, str(value)))
                continue
            if not is_plain(value) or (value.requires_grad and torch.is_grad_enabled()) or name == "out":
                return None
            key.append((name, value.shape, value.stride()))
            if weight is None and _place(value) in self._places:
                weight = value
                key.append((_place(value), value.storage_offset()))
            else:
                operands.append(value)
        return None if weight is None else _Call(tuple(key), tuple(operands), weight)

    def _keep(self, call: _Call, result: Tensor) -> None:
        product = _Product(call.key, call.operands, result, self._run)
        work = result.numel() * (call.weight.numel() // max(call.weight.shape[:2], default=1))
        if work < _WORTH * product.size or not self._make_room(product.size):
            return
        self._room -= product.size
        # The models may write to both.
        product = replace(product, operands=tuple(operand.clone() for operand in call.operands), result=result.clone())
        self._known.setdefault(call.key, []).append(product)
        self._order.append(product)

    def _make_room(self, size: int) -> bool:
        """Forget the oldest products of earlier runs until there is room; return whether there is."""
        while size > self._room and self._order and self._order[0].run < self._run:
            oldest = self._order.popleft()
            self._known[oldest.key].remove(oldest)
            self._room += oldest.size
        return size <= self._room


def _writes(name: str) -> bool:
    """Whether a function of this name may write to its first argument, as `mul_`, `__imul__` and `__setitem__` do."""
    if name[:2] == "__":
        return name in _WRITING
    return (name[-1:] == "_" and name not in _HARMLESS) or "_." in name


def _place(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _is_same(one: Tensor, other: Tensor, rounding: float) -> bool:
    """Whether two tensors of one shape are equal bit by bit, or differ by less than rounding."""
    if torch.equal(one.view(torch.int64), other.view(torch.int64)):
        return True
    return rounding > 0 and bool((one - other).abs().max() <= rounding * other.abs().max())


_ACTIVE: ContextVar[Recall | None] = ContextVar("recall", default=None)


@contextmanager
def up_to_rounding() -> Iterator[None]:
    """Take operands for the same, inside a `with` block, that differ as sums of a few numbers in another order do.

    That is for runs which ask whether other values of a tensor move anything, where these cancel out: not bit by bit.
    """
    recall = active() or Recall(())
    before, recall.rounding = recall.rounding, _ROUNDING
    try:
        yield
    finally:
        recall.rounding = before


def active() -> Recall | None:
    """Return the products that are recalled here."""
    return _ACTIVE.get()


@contextmanager
def recalling(weights: Iterable[Tensor]) -> Iterator[None]:
    """Recall products of these weights inside a `with` block, as far as `DoubleKernels` computes them."""
    recall = Recall(weights)
    before = _ACTIVE.set(recall if recall.has_weights else None)
    try:
        yield
    finally:
        _ACTIVE.reset(before)
