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

from fxmap.model.nested import leaves

# How many words that code compares with are tried.
_WORDS = 4


def stand_ins(
    name: str, bound: Mapping[str, Any], outputs: Callable[[], Sequence[Tensor]], words: Sequence[str], turn: int = 0
) -> list[Any]:
    """Return what may stand for a tensor that the example left out.

    Args:
        name: of the argument, which says what it may be.
        bound: what is given, with the tensors.
        outputs: returns those of the source.
        words: what code compares with.
        turn: how many others were left out before: two masks that are equal could not be told apart.
    """
    return [_turned(value, turn) for value in _stand_ins(name, bound, outputs, words)]


def arrays_of(bound: Mapping[str, Any]) -> list[Any]:
    """Return an array of numpy with a number for each position, and one with numbers for each position of each sample."""
    main = next((value for held in bound.values() for _, value in leaves(held) if isinstance(value, Tensor)), None)
    if main is None or not main.dim():
        return []
    whole = torch.arange(main.shape[:2].numel(), dtype=torch.float64).reshape(main.shape[:2])
    return [whole.flatten()[: main.shape[:2][-1]].numpy(), whole.numpy()]


def _turned(value: Any, turn: int) -> Any:
    return value.roll(turn, -1) if isinstance(value, Tensor) and value.dim() > 1 else value


def _stand_ins(
    name: str, bound: Mapping[str, Any], outputs: Callable[[], Sequence[Tensor]], words: Sequence[str]
) -> list[Any]:
    given = [value for held in bound.values() for _, value in leaves(held) if isinstance(value, Tensor)]
    if not given:
        return []
    main = given[0]
    positions = main.shape[:2] if main.dim() > 1 else main.shape
    first = next(iter(bound.values()))
    count = len(first) if isinstance(first, list | tuple) else positions[0] if positions else 1
    if "mask" in name:
        return [*_masks(positions), *_scores(main)]
    if "position" in name:
        return [_positions(positions)]
    if "type" in name or name.endswith(("ids", "_id")):
        return [_two_kinds(positions[-1]).expand(positions).contiguous()]
    if "label" in name or name in ("target", "targets", "y_true"):
        labels = _two_kinds(positions[-1]).expand(positions).contiguous()
        # Losses leave out what has the label -100.
        return [labels, _two_kinds(positions[0]), labels.index_fill(-1, torch.tensor(0), -100)]
    if "sizes" in name or "lengths" in name or "lens" in name:
        return [*_for_each(count, positions), (2,), (3, 3)]
    like = {value.shape: value for value in (*outputs()[:1], *given[:2]) if value.is_floating_point()}
    found = [value.detach().flip(0) for value in like.values()]
    masks = _masks(positions) if positions and all(positions) else []
    plain = [*found[:1], *masks[:1], *found[1:], *_states(found), *_scores(main), 1, 0, (2,), (3, 3), (3, 5), True]
    return [*plain, *_kept(found, words), *masks[1:], *_of_any_name(count, positions), *words[:_WORDS]]


def _of_any_name(count: int, positions: Sequence[int]) -> list[Any]:
    """Return what has a telling name in most models, and may have any: positions, sizes."""
    if not positions or not all(positions):
        return []
    return [_positions(positions), *_for_each(count, positions)]


def _masks(positions: Sequence[int]) -> list[Tensor]:
    """Return masks with a hole at the end of every row, and one more in the first."""
    mask = torch.ones(positions, dtype=torch.long)
    mask[..., -1] = 0
    if len(positions) > 1 and positions[-1] > 2:
        mask[0, 1] = 0
    return [mask, mask.bool()]


def _positions(positions: Sequence[int]) -> Tensor:
    return torch.arange(positions[-1]).flip(0).expand(positions).contiguous()


def _for_each(count: int, positions: Sequence[int]) -> list[Any]:
    """Return two numbers for each sample, as sizes of images, and one, as lengths."""
    sizes, lengths = [(2 + i, 3 + 2 * i) for i in range(count)], [1 + i % max(positions[-1], 1) for i in range(count)]
    return [sizes, torch.tensor(sizes), lengths, torch.tensor(lengths)]


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
