"""Values of ONNX: integers that a tensor holds, and element types."""

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Numbers of onnx.TensorProto.DataType, which are fixed by the format.
DTYPES = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
    14: torch.complex64,
    15: torch.complex128,
    16: torch.bfloat16,
}


def integers(value: Tensor) -> list[int]:
    """Return the integers of a tensor: a shape, axes, sizes.

    >>> integers(torch.tensor([2, -1])), integers(torch.tensor(3))
    ([2, -1], [3])
    """
    return [int(one) for one in plain(value).reshape(-1).tolist()]


def bounded(count: float) -> None:
    """Refuse a value of more numbers than fit into memory: a file of a hundred bytes can ask for any size.

    >>> bounded(2**20), bounded(2**40)
    Traceback (most recent call last):
    ValueError: the graph makes a value of 1.1e+12 numbers, more than 2.1e+09
    """
    if count > _LARGEST:
        raise ValueError(f"the graph makes a value of {count:.1e} numbers, more than {_LARGEST:.1e}")


_LARGEST = 2**31


def plain(value: Tensor) -> Tensor:
    """Return the tensor that a functional one stands for, in a run that is recorded without writes; others as they are."""
    if not torch._is_functional_tensor(value):
        return value
    functional: Any = torch
    functional._sync(value)
    found: Tensor = functional._from_functional_tensor(value)
    return found


def exact(value: float) -> float:
    """Return the number that was meant by one that a file holds in float32: a short decimal, a ratio, a root of one.

    The result rounds to the given number in float32, so that nothing changes there. In float64 two spellings of one function
    then agree: 9.999999974752427e-07 was written for 1e-06, and 0.3535533845424652 for the root of 1/8.

    >>> exact(9.999999974752427e-07), exact(0.3535533845424652) == 0.125**0.5, exact(0.12345671653747559)
    (1e-06, True, 0.12345672)
    """
    held = float(np.float32(value))
    if held != value or value == 0 or not math.isfinite(value):
        return value
    decimal = float(str(np.float32(value)))
    if len(f"{decimal:.9g}".replace(".", "").strip("-0").partition("e")[0].strip("0")) <= _SHORT:
        return decimal
    for candidate in _candidates(abs(value)):
        if float(np.float32(candidate)) == abs(held):
            return math.copysign(candidate, value)
    return decimal


def _candidates(value: float) -> Iterator[float]:
    """Yield numbers that people write and that are near a value: ratios, their roots, and roots of widths."""
    yield float(Fraction(value).limit_denominator(_SMALL))
    for power in (2, 4):  # exporters give the root of a scale to both factors of a product
        yield float(Fraction(value**power).limit_denominator(_SMALL)) ** (1 / power)
    yield from (math.sqrt(2 / math.pi), math.pi, 2 * math.pi, math.log(2), 1 / math.log(2))
    for power in (2, 4):
        for raised in (round(value**power), 1 / max(1, round(1 / value**power))):
            if 0 < raised <= _WIDE:
                yield float(raised) ** (1 / power)


# Digits of a decimal that somebody wrote, the largest denominator of a ratio, and the largest width whose root is taken.
# There are so few of them that a number of 24 bits is one by chance in about a case of a thousand.
_SHORT, _SMALL, _WIDE = 6, 64, 65536
