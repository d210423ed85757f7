"""Numbers that code makes of extents alone, such as the root of a width, in the precision of a run.

torch makes them in its default dtype, which is float32, and one for all threads of the process: to change it for a run would
change what other threads compute. So the integers are made wider instead, before the number is made of them.

Cost: such a number is made twice.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from fxmap.model.dispatch import DispatchMode
from fxmap.model.tensors import is_integer, tensors_of


def is_of_extents(value: Any, args: Any) -> bool:
    """Whether a value is one number in float32 that is made of integers alone.

    >>> three = torch.tensor(3)
    >>> is_of_extents(three**0.5, (three, 0.5)), is_of_extents(three + 1, (three, 1)), is_of_extents(torch.ones(()), ())
    (True, False, False)
    """
    if not isinstance(value, Tensor) or value.dtype is not torch.float32 or value.numel() != 1:
        return False
    found = tensors_of(list(args))
    return bool(found) and all(map(is_integer, found))


def widened(args: Any, dtype: torch.dtype) -> Any:
    """Return arguments with their integer tensors in a floating-point dtype.

    >>> widened((torch.tensor(3), 2), torch.float64)
    (tensor(3., dtype=torch.float64), 2)
    """
    return tree_map(lambda value: value.to(dtype) if isinstance(value, Tensor) and is_integer(value) else value, args)


class DoubleExtents(DispatchMode):
    """Makes numbers of extents in double precision inside its `with` block, in this thread.

    >>> with DoubleExtents():
    ...     root = torch.tensor(3) ** 0.5
    >>> root.dtype, torch.get_default_dtype()
    (torch.float64, torch.float32)
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call an operation, anew with wider integers where it has made a number of extents."""
        value = func(*args, **(kwargs or {}))
        return func(*widened(args, torch.float64), **(kwargs or {})) if is_of_extents(value, args) else value
