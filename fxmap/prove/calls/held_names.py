"""Held names: what models and their code name, of which inputs and arguments are made.

>>> HeldNames.of(nn.Upsample(scale_factor=2, mode="bilinear")).words
['Upsample', 'bilinear']

Cost: linear in the code of the models.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from fxmap.prove.calls.looked_up import keys_of, takes_arrays
from fxmap.prove.code.limits import Held


@dataclass(frozen=True, slots=True)
class HeldNames:
    """What models and their code name.

    Attributes:
        limits: integers that may be sizes.
        numbers: numbers that may be values.
        words: what arguments may be compared with.
        keys: words by which dicts are asked.
        arrays: whether the code names numpy.
        sequences: whole numbers in turn.
        fills: what masks fill with.
    """

    limits: Sequence[int] = ()
    numbers: Sequence[float] = ()
    words: Sequence[str] = ()
    keys: Sequence[str] = ()
    arrays: bool = False
    sequences: Sequence[tuple[int, ...]] = ()
    fills: Sequence[float] = ()

    @classmethod
    def of(cls, *models: nn.Module) -> "HeldNames":
        """Read models, and the code that they run."""
        held = Held(models)
        arrays, keys = takes_arrays(*models), keys_of(*models)
        return cls(held.limits, held.numbers, held.words, keys, arrays, held.sequences, held.fills)


NOTHING = HeldNames()
