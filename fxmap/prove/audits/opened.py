"""Opened: pieces of functions that no value of a run reached, opened by force to see what lies behind them.

A gate that never opened, as `where(x.sum() > 1e9, a, b)`, an activation that was 0 everywhere, or a router that chose one
place alone hides what lies behind: other values of a key there change no output, on these inputs. So the piece is opened:
a comparison is inverted, an activation hands on what it was given, and the next place is chosen.

>>> def gated(x):
...     return torch.where(x > 100, -x, x)
>>> with Opened() as seen:
...     _ = gated(torch.ones(2))
>>> seen.flat
[0]
>>> with Opened(frozenset(seen.flat)):
...     gated(torch.ones(2))
tensor([-1., -1.])

Cost: a call of Python for each operation, and one pass over what comparisons and functions made of pieces return.
Source: predicate switching, as in `turned`, for values of tensors.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fxmap.graph.kinds import Trait, kinds
from fxmap.model.restoring import let_through
from fxmap.model.tensors import Named
from fxmap.prove.inputs.samples import Both

# Runs code with a piece opened.
Run = Callable[[Callable[[], Named]], Named]
_ANALYTIC = kinds(Trait.ANALYTIC)
_CHOOSING = frozenset({"argmax", "argmin"})
# These make values of nothing.
_MAKING = frozenset(
    {"tensor", "as_tensor", "to", "new_tensor"}
    | {form.format(name) for name in ("ones", "zeros", "full", "empty") for form in ("{}", "{}_like", "new_{}")}
)


class Opened(TorchFunctionMode):
    """Notes the functions that returned one value everywhere, and opens some of them.

    Attributes:
        flat: which functions did, in the order of the run, of those that are made of pieces.
        opened: those that are opened.
    """

    def __init__(self, opened: frozenset[int] = frozenset()) -> None:
        super().__init__()
        self.opened, self.flat = opened, list[int]()
        self._count = -1

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function, and open it."""
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "").strip("_")
        if not isinstance(result, Tensor) or not args or not isinstance(args[0], Tensor) or result is args[0]:
            return result
        other = _other(name, args, result)
        if other is None:
            return result
        self._count += 1
        if self._count in self.opened:
            return other
        if bool((result == result.flatten()[0]).all()):
            self.flat.append(self._count)
        return result


@torch.no_grad()
def opened_runs(samples: Iterable[Both], outputs: Callable[[Both], Named], most: int) -> Iterator[tuple[Run, Both]]:
    """Yield what runs code with one piece opened, for each sample and each piece that no value of it reached.

    Args:
        samples: inputs.
        outputs: runs a model on one of them.
        most: how many pieces of one run are opened.
    """
    for sample in samples:
        with Opened() as seen:
            outputs(sample)
        for place in seen.flat[:most]:
            run = partial(_opened, frozenset({place}))
            try:
                run(partial(outputs, sample))
            except Exception as error:  # whatever a model raises where a gate is open that these inputs leave closed
                let_through(error)
                continue
            yield run, sample


def _opened(opened: frozenset[int], code: Callable[[], Named]) -> Named:
    with Opened(opened):
        return code()


def _other(name: str, args: Any, result: Tensor) -> Tensor | None:
    """Return what a function would give if its other piece were reached; None where it is not made of pieces."""
    given: Tensor = args[0]
    if not result.numel() or result.layout is not torch.strided or name in _MAKING:
        return None
    if result.dtype is torch.bool:
        return None if given.dtype is torch.bool else ~result
    if name in _CHOOSING:
        return (result + 1) % max(given.shape[-1], 1)
    single = not any(isinstance(arg, Tensor) for arg in args[1:])
    if not single or name in _ANALYTIC or not (given.is_floating_point() and result.is_floating_point()):
        return None
    # A copy: code may write into what it made, and what it was given may be kept for other runs.
    return Tensor.to(given, result.dtype, copy=True) if given.shape == result.shape else None
