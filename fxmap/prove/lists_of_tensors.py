"""Lists of tensors, as of images: with more and fewer of them, with none, and of other sizes beside each other.

>>> from fxmap.model.inputs import as_inputs
>>> both = (as_inputs(([torch.zeros(3, 6), torch.zeros(3, 6)],)),) * 2
>>> for text, (inputs, _) in lists(both):
...     print(text, [tuple(item.shape) for item in inputs.args[0]])
with 3 tensors in a list [(3, 6), (3, 6), (3, 6)]
with 4 tensors in a list [(3, 6), (3, 6), (3, 6), (3, 6)]
with 1 tensors in a list [(3, 6)]
with 0 tensors in a list []
with several sizes in a list [(3, 6), (3, 4)]
with several sizes in a list [(3, 6), (2, 6)]

Cost: none; each is one run of both models, on small inputs.
"""

from collections import deque
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from fxmap.model.inputs import Inputs, replaced
from fxmap.model.nested import Path, leaves
from fxmap.prove.samples import Both


def lists(both: Both) -> Iterator[tuple[str, Both]]:
    """Yield inputs with other numbers of tensors in whatever holds several, then with tensors of other sizes."""
    theirs = dict(_several(both[1]))
    for place, items in _several(both[0]):
        other = theirs.get(place)
        if other is None or type(items) is not type(other) or len(items) != len(other):
            continue
        kind = type(items).__name__
        for count in (len(items) + 1, len(items) + 2, len(items) - 1, 0):
            if count or (len(items) > 1 and kind != "dict"):
                yield (
                    f"with {count} tensors in a {kind}",
                    _with(both, place, [_counted(one, count) for one in (items, other)]),
                )
        if kind != "dict" and len(items) > 1:
            for axis in (-1, -2):
                changed = [_of_several_sizes(one, axis) for one in (items, other)]
                yield f"with several sizes in a {kind}", _with(both, place, changed)


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
    more = [_turned(part) for part in named.values()] + list(named.values())
    kept = dict(list(named.items())[:count])
    extra = {f"more_{i}": part for i, part in enumerate(more[: count - len(kept)])}
    changed = {**kept, **extra}
    return changed if type(items) is dict else type(items)(changed.values())


def _turned(part: Any) -> Any:
    return tree_map(lambda item: item.flip(0) if isinstance(item, Tensor) and item.dim() else item, part)


def _of_several_sizes(items: Any, axis: int) -> Any:
    """Return the items, all but the first of which are a third shorter along an axis."""
    first, *rest = items
    return type(items)([first, *(tree_map(partial(_shorter, axis=axis), item) for item in rest)])


def _shorter(item: Any, axis: int) -> Any:
    if not isinstance(item, Tensor) or item.dim() < 2:
        return item
    return torch.narrow(item, axis, 0, max(1, 2 * item.shape[axis] // 3))
