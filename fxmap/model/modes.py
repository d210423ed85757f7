"""Modes: torch's stacks of what watches operations, which belong to a thread and which code of a model may leave longer.

>>> from torch.overrides import BaseTorchFunctionMode
>>> with kept_modes():
...     mode = BaseTorchFunctionMode().__enter__()
>>> _functions()
[]

A run of a model puts them back when it ends. Left for the next run, what watches that one would be in their place when it
leaves, and stay; some hundred runs later each operation passes some hundred of them, or overflows the stack.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import _get_current_function_mode_stack

from fxmap.model.restoring import carry_out
from fxmap.model.settings import Step


def modes() -> Step:
    """Return the step that puts both stacks of this thread back to what they are now."""
    dispatch, functions = torch._C._len_torch_dispatch_stack(), _functions()

    def put_back() -> None:
        while torch._C._len_torch_dispatch_stack() > dispatch:
            torch._C._pop_torch_dispatch_stack(None)
        while _functions() != functions[: len(_functions())]:
            torch._C._pop_torch_function_stack()
        for mode in functions[len(_functions()) :]:
            torch._C._push_on_torch_function_stack(mode)

    return put_back


@contextmanager
def kept_modes() -> Iterator[None]:
    """Put both stacks back when the `with` block ends."""
    put_back = modes()
    try:
        yield
    finally:
        carry_out([put_back])


def _functions() -> list[Any]:
    return list(_get_current_function_mode_stack())  # type: ignore[no-untyped-call]
