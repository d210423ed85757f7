"""Lists of tensors, as of images: with more and fewer of them, with none, and of other sizes beside each other.

Code that takes the first six, or has weights for eight, does so without a decision that is seen. So there are as many as
code names, and more than most code has in mind. Sizes change and change back, since code may join neighbours of one size, or
all.

>>> from fxmap.model.inputs import as_inputs
>>> both = (as_inputs(([torch.zeros(3, 6), torch.zeros(3, 6)],)),) * 2
>>> for text, (inputs, _) in lists(both):
...     print(text, [tuple(item.shape) for item in inputs.args[0]])
with 3 tensors in a list [(3, 6), (3, 6), (3, 6)]
with 4 tensors in a list [(3, 6), (3, 6), (3, 6), (3, 6)]
with 1 tensors in a list [(3, 6)]
with 0 tensors in a list []
with several sizes in a list [(3, 6), (3, 4), (3, 6)]
with several sizes in a list [(3, 4), (3, 6), (3, 4)]
with several sizes in a list [(3, 6), (2, 6), (3, 6)]
with several sizes in a list [(2, 6), (3, 6), (2, 6)]
with several sizes in a list [(3, 6), (3, 4)]
with several sizes in a list [(3, 6), (2, 6)]
>>> [len(inputs.args[0]) for text, (inputs, _) in many(both, [8, 12, 300])]
[17, 9, 13, 7, 8, 12]

Cost: none; each is one run of both models, on small inputs.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import cycle, islice
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from fxmap.model.inputs import Inputs, replaced
from fxmap.model.nested import Path, leaves
from fxmap.prove.inputs.samples import Both

# More tensors than most code has weights for, or takes, and the most that are tried where code names a number.
_MORE, _MOST = (7, 9, 17), 40
# In how many lists, and how many numbers of tensors.
_LISTS, _COUNTS = 2, 10


def lists(both: Both) -> Iterator[tuple[str, Both]]:
    """Yield inputs with other numbers of tensors in whatever holds several, then with tensors of other sizes."""
    for place, pair in _shared(both):
        items, kind = pair[0], type(pair[0]).__name__
        for count in (len(items) + 1, len(items) + 2, len(items) - 1, 0):
            if count or (len(items) > 1 and kind != "dict"):
                yield _of_count(both, place, pair, count)
        if kind != "dict":
            text = f"with several sizes in a {kind}"
            yield from ((text, _with(both, place, values)) for values in _of_several_sizes(pair))


def many(both: Both, named: Sequence[int]) -> Iterator[tuple[str, Both]]:
    """Yield inputs with more tensors in a list: more than most code takes, and as many as code names, and one more.

    Args:
        both: the inputs of both models.
        named: integers that the code of the models names.

    Those beyond what code names come first.
    """
    known = sorted(number for number in named if 1 < number < _MOST)
    counts = list(dict.fromkeys([max(_MORE), *(number + 1 for number in known), *_MORE, *known]))[:_COUNTS]
    for place, pair in _shared(both)[:_LISTS]:
        yield from (_of_count(both, place, pair, count) for count in counts if count > len(pair[0]) + 2)


def _shared(both: Both) -> list[tuple[Path, list[Any]]]:
    """Return what holds several tensors in the inputs of both models, with its place."""
    theirs = dict(_several(both[1]))
    found = [(place, [items, theirs.get(place)]) for place, items in _several(both[0])]
    return [(place, [one, other]) for place, (one, other) in found if type(one) is type(other) and len(one) == len(other)]


def _of_count(both: Both, place: Path, pair: list[Any], count: int) -> tuple[str, Both]:
    values = [_counted(items, count) for items in pair]
    return f"with {count} tensors in a {type(pair[0]).__name__}", _with(both, place, values)


def _with(both: Both, place: Path, values: list[Any]) -> Both:
    return replaced(both[0], place, values[0]), replaced(both[1], place, values[1])


def _several(inputs: Inputs) -> list[tuple[Path, Any]]:
    """Return what holds several tensors, or several of such, with its place: arguments, and lists inside of them."""
    found: list[tuple[Path, Any]] = []

    def noted(path: Path, value: Any) -> bool:
        if len(path) > 1 and is_several(value) and (len(path) == 2 or type(value) is not dict):
            found.append((path, value))
        return False

    deque(leaves((inputs.args, dict(inputs.kwargs)), whole=noted), maxlen=0)
    return found


def is_several(value: Any) -> bool:
    """Whether a value is a list, a tuple or a dict of tensors, or of such."""
    parts = list(value.values()) if type(value) is dict else value
    return type(parts) in (list, tuple) and bool(parts) and all(isinstance(p, Tensor) or is_several(p) for p in parts)


def _counted(items: Any, count: int) -> Any:
    """Return as many items of a list, a tuple or a dict, which are turned round where there are more than were given."""
    named: dict[Any, Any] = dict(items) if type(items) is dict else dict(enumerate(items))
    more = cycle([*map(_turned, named.values()), *named.values()])
    kept = dict(list(named.items())[:count])
    extra = {f"more_{i}": part for i, part in enumerate(islice(more, count - len(kept)))}
    changed = {**kept, **extra}
    return changed if type(items) is dict else type(items)(changed.values())


def _turned(part: Any) -> Any:
    """Return tensors whose samples are turned round; where there is one, its numbers."""

    def turn(item: Any) -> Any:
        if not isinstance(item, Tensor) or not item.dim():
            return item
        return item.flip(0) if len(item) > 1 else item.flip(tuple(range(item.dim())))

    return tree_map(turn, part)


def _of_several_sizes(pair: list[Any]) -> Iterator[list[Any]]:
    """Yield items, every second of which, or all but the first, are a third shorter along an axis."""
    three = [_counted(items, max(3, len(items))) for items in pair]
    for axis in (-1, -2):
        for odd in (1, 0):
            yield [_shortened(items, axis, partial(_is_at, odd)) for items in three]
    if len(pair[0]) > 1:
        for axis in (-1, -2):
            yield [_shortened(items, axis, lambda place: place > 0) for items in pair]


def _is_at(odd: int, place: int) -> bool:
    return place % 2 == odd


def _shortened(items: Any, axis: int, chosen: Callable[[int], bool]) -> Any:
    """Return the items, of which those at the chosen places are shorter."""
    short = partial(_shorter, axis=axis)
    return type(items)([tree_map(short, item) if chosen(place) else item for place, item in enumerate(items)])


def _shorter(item: Any, axis: int) -> Any:
    if not isinstance(item, Tensor) or item.dim() < 2:
        return item
    return torch.narrow(item, axis, 0, max(1, 2 * item.shape[axis] // 3))
