"""Dispatch modes that do not make torch import its compiler.

torch keeps its compiler out of every mode's `__torch_dispatch__`, and imports it for that at the first operation: more
than a second, longer than the proof of a small model takes. Where nobody has imported the compiler, there is nothing to keep
out.

>>> import torch
>>> class Counting(DispatchMode):
...     calls = 0
...     def __torch_dispatch__(self, func, types, args=(), kwargs=None):
...         self.calls += 1
...         return func(*args, **(kwargs or {}))
>>> with Counting() as mode:
...     _ = torch.ones(2) + 1
>>> mode.calls
2

Cost: a look-up for each `with` block.
"""

import sys
from typing import Any, Self

from torch._compile import _disable_dynamo
from torch.utils._python_dispatch import TorchDispatchMode


class DispatchMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A TorchDispatchMode that the compiler is kept out of once it is imported."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)  # type: ignore[no-untyped-call]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Tell torch to leave the mode as it is: see `__enter__`."""
        return False

    def __enter__(self) -> Self:
        """Enter the mode."""
        kind: Any = type(self)
        if "torch._dynamo" in sys.modules and "_without_compiler" not in vars(kind):
            kind._without_compiler = True
            kind.__torch_dispatch__ = _disable_dynamo(kind.__torch_dispatch__, recursive=True)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self
