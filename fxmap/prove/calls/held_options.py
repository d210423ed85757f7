"""Held options: what arguments hold that is no tensor, in containers and objects, and tensors where they hold None.

>>> import torch
>>> from fxmap.model.inputs import as_inputs
>>> both = (as_inputs((torch.zeros(2, 3), {"scale": 1.0, "causal": False})),) * 2
>>> [option.text for option in others_held(both, tuple, ())][:3]
["with argument 1['scale']=3.0", "with argument 1['causal']=True", "with argument 1['scale']=-1.0"]

Cost: none; each is one run of both models, on small inputs.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

from torch import Tensor

from fxmap.model.inputs import placed, replaced
from fxmap.model.nested import Path
from fxmap.prove.calls.option import Option, in_both, shown
from fxmap.prove.calls.other_values import is_option, other_values
from fxmap.prove.calls.stand_ins import stand_ins
from fxmap.prove.inputs.samples import Both

Key = TypeVar("Key")


def others_held(
    both: Both, outputs: Callable[[], Sequence[Tensor]], words: Sequence[str], numbers: Sequence[float] = ()
) -> Iterator[Option]:
    """Yield other values of what both models are given that is no tensor, by its place: also in containers and objects.

    Args:
        both: the inputs of both models.
        outputs: returns those of the source: what is None may be like one of them.
        words: what code compares with.
        numbers: what code names.
    """
    theirs = {place: value for _, place, value in placed(both[1])}
    ours = [(name, place, value) for name, place, value in placed(both[0]) if place in theirs]
    found = [
        ((name, place), other_values(value, words, numbers))
        for name, place, value in ours
        if is_option(value, theirs[place])
    ]
    nothing = [(name, place) for name, place, value in ours if value is None and theirs[place] is None and len(place) > 2]
    tried = [
        ((name, place), stand_ins(_word(place), _beside(both, place), outputs, words, turn))
        for turn, (name, place) in enumerate(nothing)
    ]
    for (name, place), value in in_turn([*found, *tried]):
        change = in_both(partial(replaced, place=place, value=value))
        left_out = name if isinstance(value, Tensor) else ""
        yield Option(shown(name, value), change, left_out, given=name, factor=name, value=value)


def in_turn(found: Sequence[tuple[Key, list[Any]]]) -> Iterator[tuple[Key, Any]]:
    """Yield the first value of every list with its key, then the second ones."""
    for turn in range(max((len(values) for _, values in found), default=0)):
        yield from ((key, values[turn]) for key, values in found if turn < len(values))


def _word(place: Path) -> str:
    """Return the name of a key or an attribute by its step.

    >>> _word(("[0]", "[1]", "['mask']")), _word(("[0]", "[1]", ".mask"))
    ('mask', 'mask')
    """
    return place[-1].strip(".[]'\"")


def _beside(both: Both, place: Path) -> dict[str, Tensor]:
    """Return the tensors beside a place, by their places: those of what holds it first, and numbers for each sample last."""
    tensors = [(path, value) for _, path, value in placed(both[0]) if isinstance(value, Tensor)]
    near = [(path, value) for path, value in tensors if path[: len(place) - 1] == place[:-1]]
    found = sorted((*near, *tensors), key=lambda item: item[1].dim() < 2)
    return {"".join(path): value for path, value in found}
