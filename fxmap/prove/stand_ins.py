"""Stand-ins: what may be given for an argument that the example leaves out, by its name and by the tensors that are there.

>>> x = torch.zeros(2, 3, 8)
>>> [tuple(value.shape) for value in stand_ins("mask", {"x": x}, tuple, ())]
[(2, 3), (2, 3), (3, 3), (2, 1, 3, 3)]

Cost: none; each is one run of both models, on small inputs.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def stand_ins(
    name: str, bound: Mapping[str, Any], outputs: Callable[[], Sequence[Tensor]], words: Sequence[str]
) -> list[Any]:
    """Return what may stand for a tensor that the example left out, by its name and the tensors that are given."""
    given = [value for value in bound.values() if isinstance(value, Tensor)]
    if not given:
        return []
    main = given[0]
    positions = main.shape[:2] if main.dim() > 1 else main.shape
    if "mask" in name:
        mask = torch.ones(positions, dtype=torch.long)
        mask[..., -1] = 0
        return [mask, mask.bool(), *_scores(main)]
    if "position" in name:
        return [torch.arange(positions[-1]).flip(0).expand(positions).contiguous()]
    if "type" in name or name.endswith(("ids", "_id")):
        return [_two_kinds(positions[-1]).expand(positions).contiguous()]
    if "label" in name or name in ("target", "targets", "y_true"):
        return [_two_kinds(positions[-1]).expand(positions).contiguous(), _two_kinds(positions[0])]
    like = {value.shape: value for value in (*outputs()[:1], *given[:2]) if value.is_floating_point()}
    found = [value.detach().flip(0) for value in like.values()]
    return [*found[:1], *_states(found), *found[1:], *_scores(main), 1, 0, (2,), (3, 3), True, *_kept(found, words)]


def _two_kinds(count: int) -> Tensor:
    """Return zeros, then ones: in another order they are others."""
    return (torch.arange(count) > count // 2).long()


def _states(found: Sequence[Tensor]) -> list[Any]:
    """Return the states of a recurrent layer: one, and two of them, for a width of the inputs or of the outputs."""
    states = [value[:, :1].transpose(0, 1).contiguous() for value in found if value.dim() == 3]
    return [one for state in {s.shape: s for s in states}.values() for one in (state, (state, state.flip(-1)))]


def _scores(main: Tensor) -> list[Tensor]:
    """Return what is added to the scores of an attention, for all samples and for each of them."""
    if main.dim() not in (2, 3):
        return []
    length = main.shape[1]
    scores = torch.sin(torch.arange(length * length, dtype=torch.float64)).reshape(length, length)
    return [scores, scores.expand(main.shape[0], 1, length, length).contiguous()]


def _kept(found: Sequence[Tensor], words: Sequence[str]) -> list[Any]:
    """Return what earlier steps leave: pairs of tensors for each layer, tensors by the words that the code names; labels."""
    pairs: list[Any] = [[(value, value.flip(-1))] for value in found if value.dim()]
    named = [dict.fromkeys(words, value) for value in found if words]
    return [*pairs, *named, *(torch.arange(len(value)) for value in found[:1] if value.dim())]
