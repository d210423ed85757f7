"""Rows: whether a model takes inputs of another form as it takes those that were given.

Cost: two runs of the model.
"""

from collections.abc import Callable, Sequence

from torch import Tensor

from fxmap.model.inputs import Inputs
from fxmap.prove.audits.audit import difference
from fxmap.prove.inputs.samples import Both

Outputs = Callable[[Both], Sequence[tuple[str, Tensor]]]


def by_rows(outputs: Outputs, whole: Inputs, row: Inputs, axis: int | None, tolerance: float) -> bool:
    """Whether the output of a model for a row of inputs is that row of its output.

    Args:
        outputs: returns the model's outputs; none for what it refuses.
        whole: the inputs.
        row: the first of their rows.
        axis: that of the rows; None where the outputs for both are to be the same.
        tolerance: how far equal outputs may be apart.
    """
    # The unusual one first: where the model refuses it, the other one need not run.
    unusual, usual = (whole, row) if axis == 1 else (row, whole)
    first = outputs((unusual, unusual))
    second = outputs((usual, usual)) if first else []
    ours, alone = (first, second) if axis == 1 else (second, first)
    return 0 < len(ours) == len(alone) and all(
        (axis is None or a.dim() > axis) and difference(a if axis is None else a.select(axis, 0), b, None) <= tolerance
        for (_, a), (_, b) in zip(ours, alone, strict=True)
    )
