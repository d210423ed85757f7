"""A budget for runs on inputs that nobody gave: what would take too much memory or time is stopped before it does.

Guessed inputs may be far larger than those a model is meant for: attention over every pixel, three axes of space. Whether a
model accepts them is not worth the machine. Before an operation runs on large operands, or makes a tensor from a size alone,
its result is worked out on the meta device, which has shapes and no memory. Time is looked at between operations; one that
alone would outlast it, such as the singular values of a large matrix, is told by the number of its steps.

>>> with budget("a guess", Budget(size=1e6)):
...     torch.ones(1000, 1000)
Traceback (most recent call last):
    ...
fxmap.errors.CaptureError: a guess: a run takes more than 0.001 GB; pass example_inputs=(x,) of the size that is meant

Cost: a Python call for each operation, and the shapes of the large ones.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from fxmap.errors import CaptureError
from fxmap.model.dispatch import DispatchMode
from fxmap.model.tensors import tensors_of


@dataclass(frozen=True, slots=True)
class Budget:
    """How much a run may take: `size` bytes of results in all, and so many `seconds`; a proof takes twice the size."""

    size: float = 1e9
    seconds: float = 30.0


BUDGET = Budget()
# Operations on fewer numbers than this are run without asking how large their result is.
_LARGE = 1 << 16


@contextmanager
def budget(what: str, most: Budget = BUDGET) -> Iterator[None]:
    """Stop the code in the `with` block where it exceeds a budget.

    Raises:
        CaptureError: it did; the message begins with `what`.
    """
    try:
        with _Watch(most):
            yield
    except _Exceeded as error:
        raise CaptureError(
            f"{what}: a run takes more than {error}; pass example_inputs=(x,) of the size that is meant"
        ) from None


class _Exceeded(BaseException):
    """A budget is spent; no `except Exception` of the model's own may stop this."""


class _Watch(DispatchMode):
    """Adds up the results of all operations, those of large ones before they run."""

    def __init__(self, most: Budget) -> None:
        super().__init__()
        self.most, self.size, self.end = most, 0, time.monotonic() + most.seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation within the budget."""
        kwargs = kwargs or {}
        if time.monotonic() > self.end:
            raise _Exceeded(f"{self.most.seconds:g} s")
        operands = tensors_of([args, kwargs])
        if not func.is_view and (not operands or sum(tensor.numel() for tensor in operands) >= _LARGE):
            if _least_seconds(func, operands) > self.most.seconds:
                raise _Exceeded(f"{self.most.seconds:g} s")
            self._spend(_size(func, args, kwargs))
        return func(*args, **kwargs)

    def _spend(self, size: int) -> None:
        self.size += size
        if self.size > self.most.size:
            raise _Exceeded(f"{self.most.size / 1e9:g} GB")


def _size(func: Any, args: Any, kwargs: Any) -> int:
    """Return the bytes of an operation's results; 0 where the meta device cannot tell."""
    args, kwargs = tree_map(_on_meta, (args, kwargs))
    if "device" in kwargs or not tensors_of([args, kwargs]):
        kwargs = kwargs | {"device": torch.device("meta")}
    try:
        results = tensors_of([func(*args, **kwargs)])
    except Exception:  # an operation whose shapes depend on the data, or that has no meta kernel
        return 0
    return sum(result.numel() * result.element_size() for result in results)


# Steps a second of one core: of products of matrices, and of decompositions, of which each number takes some twenty steps.
_PRODUCTS, _DECOMPOSITIONS = 5e10, 1e10
_DECOMPOSED = ("linalg_", "_linalg_", "matrix_exp", "geqrf", "cholesky")
_CHEAP = ("linalg_vector_norm", "linalg_cross")


def _least_seconds(func: Any, operands: Sequence[Tensor]) -> float:
    """Return about how long a product or a decomposition of matrices takes; 0 for any other operation.

    >>> round(_least_seconds(torch.ops.aten._linalg_svd.default, [torch.empty(4000, 4000, device="meta")]))
    128
    """
    name, matrices = func._schema.name.partition("::")[2], [tensor for tensor in operands if tensor.dim() >= 2]
    if not matrices:
        return 0.0
    first, last = matrices[0], matrices[-1]
    if name.startswith(_DECOMPOSED) and name not in _CHEAP:
        return 20 * first.numel() * min(first.shape[-2:]) / _DECOMPOSITIONS
    if name in ("mm", "bmm", "addmm", "baddbmm"):
        return 2 * matrices[-2 if len(matrices) > 1 else 0].numel() * last.shape[-1] / _PRODUCTS
    return 0.0


def _on_meta(value: Any) -> Any:
    return value.detach().to("meta") if isinstance(value, Tensor) else value
