"""Lacking: samples of which one of two models makes no numbers, while others of the same run can be compared.

>>> ours, theirs = torch.tensor([[1.0], [float("nan")]]), torch.tensor([[1.5], [0.0]])
>>> with_numbers([(ours, theirs)], 2)
([(tensor([[1.]]), tensor([[1.5000]]))], 1, 'source')

Cost: one pass over the outputs.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

Pairs = list[tuple[Tensor, Tensor]]


def with_numbers(
    pairs: Sequence[tuple[Tensor, Tensor]], batch: int | None, *, both: bool = False
) -> tuple[Pairs, int | None, str]:
    """Return the samples of which the source, or `both` models, return numbers.

    Equal infinities count as numbers. Where an output has no axis of samples, and lacks numbers, no pair is returned.

    Args:
        pairs: outputs of the source and of the destination.
        batch: how many samples there are, if that is known.
        both: whether samples are left out of which the destination makes no numbers.

    Returns:
        The outputs for these samples, how many there are, and which model alone lacks the numbers of another one.
    """
    found: Pairs = [_without_equal_infinities(one, other) for one, other in pairs]
    lacks, alone = list[Tensor](), [False, False]
    rows = batch if batch and all(one.dim() and one.shape[0] == batch for one, _ in pairs) else 1
    for one, other in found:
        if one.shape != other.shape or not one.numel() or not one.is_floating_point():
            continue
        none = [~torch.isfinite(value).reshape(rows, -1) for value in (one, other)]
        alone = [alone[0] or bool((none[0] & ~none[1]).any()), alone[1] or bool((none[1] & ~none[0]).any())]
        lacks.append((none[0] | none[1] if both else none[0]).any(1))
    text = "source" if alone[0] else "destination" if alone[1] else ""
    kept = ~torch.stack(lacks).any(0) if lacks else torch.ones(rows, dtype=torch.bool)
    if bool(kept.all()):
        return found, batch, text
    if not bool(kept.any()):
        return [], batch, text
    return (
        [(one[kept], other[kept]) if one.shape == other.shape else (one, other) for one, other in found],
        int(kept.sum()),
        text,
    )


def _without_equal_infinities(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    if one.shape != other.shape or not (one.is_floating_point() and other.is_floating_point()):
        return one, other
    equal = torch.isinf(one) & (one == other)
    return (one.masked_fill(equal, 0.0), other.masked_fill(equal, 0.0)) if bool(equal.any()) else (one, other)
