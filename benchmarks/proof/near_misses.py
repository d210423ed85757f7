"""Near misses: mappings and models that are wrong in one place, and hard to tell from right ones.

A case is a plan: which values of the destination are exchanged, altered or left out, or what is changed about its code. The
judge carries it out on tensors, and the measurement writes it as a mapping; the two share nothing but the plan.
"""

import copy
import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from benchmarks.proof.changes import CHANGES, is_activation, replacing
from benchmarks.proof.subjects import Subject

Alter = Callable[[Tensor], Tensor]
Change = Callable[[nn.Module], None]


@dataclass(frozen=True)
class Case:
    """One planted error.

    `exchange` says which destination key gets the value of which other; `alter` what is done to a key's value; `left_out`
    are keys that the mapping does not make; `copies` are dead copies that get the value of a key; `change` is what is done
    to the destination's code, at `places`. What is wrong otherwise follows from the keys. What is `removed` from the
    destination can be named in the source alone.
    """

    kind: str
    what: str
    exchange: Mapping[str, str] = field(default_factory=dict)
    alter: Mapping[str, Alter] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    copies: Mapping[str, str] = field(default_factory=dict)
    change: Change | None = None
    places: tuple[str, ...] = ()
    removed: bool = False

    @property
    def keys(self) -> tuple[str, ...]:
        """The destination keys that get a wrong value."""
        return (*self.exchange, *self.alter, *self.left_out)

    def only(self, key: str) -> "Case":
        """Return the case with the error of one key alone."""
        return replace(
            self,
            exchange={k: v for k, v in self.exchange.items() if k == key},
            alter={k: v for k, v in self.alter.items() if k == key},
            left_out=tuple(k for k in self.left_out if k == key),
        )


NEAR_MISSES = (
    "tensors swapped", "norm's statistics swapped", "matrix transposed", "channels exchanged", "q and k swapped",
    "head permuted", "dead copy", "left out", "operation removed", *CHANGES,
)  # fmt: skip


def cases(subject: Subject, dst: nn.Module, keys: list[str], cap: int, seed: int) -> Iterator[Case]:
    """Draw up to `cap` cases of each kind, fewer of a slow subject.

    `keys` are the destination's float keys that the right mapping makes.
    """
    shapes = {key: tuple(value.shape) for key, value in dst.state_dict().items() if key in keys}
    drawn_of = (
        _swapped(shapes),
        _statistics(shapes),
        _transposed(shapes),
        _channels(shapes),
        _queries_and_keys(subject, shapes),
        _heads(subject, shapes),
        _dead_copies(shapes),
        [Case("", key, left_out=(key,)) for key in shapes],
        list(_removals(dst)) if subject.source is subject.target else [],
        *(list(_changes(kind, dst)) for kind in CHANGES),
    )
    for kind, drawn in zip(NEAR_MISSES, drawn_of, strict=True):
        rng = random.Random(f"{seed} {subject.name} {kind}")
        chosen = rng.sample(drawn, min(math.ceil(cap * subject.share), len(drawn)))
        for case in chosen:
            yield replace(case, kind=kind)


def _pair(what: str, *pairs: tuple[str, str]) -> Case:
    return Case("", what, exchange={a: b for one, other in pairs for a, b in ((one, other), (other, one))})


def _swapped(shapes: dict[str, tuple[int, ...]]) -> list[Case]:
    keys = list(shapes)
    return [
        _pair(f"{a} and {b}", (a, b)) for i, a in enumerate(keys) for b in keys[i + 1 :] if shapes[a] == shapes[b] != (1,)
    ]


def _statistics(shapes: dict[str, tuple[int, ...]]) -> list[Case]:
    names = ("weight", "bias", "running_mean", "running_var")
    owners = [key.removesuffix(".running_var") for key in shapes if key.endswith(".running_var")]
    owners += [
        owner
        for key, shape in shapes.items()
        if (owner := key.removesuffix(".weight")) != key and f"{owner}.bias" in shapes and len(shape) == 1
    ]
    return [
        _pair(f"{a} and {b} of {owner}", (f"{owner}.{a}", f"{owner}.{b}"))
        for owner in dict.fromkeys(owners)
        for i, a in enumerate(names)
        for b in names[i + 1 :]
        if f"{owner}.{a}" in shapes and f"{owner}.{b}" in shapes
    ]


def _transposed(shapes: dict[str, tuple[int, ...]]) -> list[Case]:
    found = []
    for key, shape in shapes.items():
        if len(shape) >= 2 and shape[0] == shape[1] > 1:
            found.append(Case("", f"{key}, rows for columns", alter={key: lambda t: t.transpose(0, 1).contiguous()}))
        if len(shape) == 4 and shape[2] == shape[3] > 1:
            found.append(Case("", f"{key}, height for width", alter={key: lambda t: t.transpose(2, 3).contiguous()}))
    return found


def _channels(shapes: dict[str, tuple[int, ...]]) -> list[Case]:
    return [
        Case("", f"{axis} {one} and {shape[i] - 1} of {key}", alter={key: _exchanging(i, one, shape[i] - 1, 1)})
        for key, shape in shapes.items()
        for i, axis in enumerate(("row", "column"))
        if len(shape) > i and shape[i] > 1
        for one in {0, shape[i] // 2 - 1}
    ]


def _exchanging(axis: int, one: int, other: int, size: int) -> Alter:
    """Exchange two blocks of channels."""

    def alter(tensor: Tensor) -> Tensor:
        order = list(range(tensor.shape[axis]))
        a, b = slice(one * size, (one + 1) * size), slice(other * size, (other + 1) * size)
        order[a], order[b] = order[b], order[a]
        return tensor.index_select(axis, torch.tensor(order))

    return alter


def _queries_and_keys(subject: Subject, shapes: dict[str, tuple[int, ...]]) -> list[Case]:
    found = []
    for q, k in subject.separate:
        for key in shapes:
            owner, _, name = key.rpartition(".")
            if owner.endswith(q):
                other = owner.removesuffix(q) + k
                found.append(_pair(f"{name} of {owner} and {other}", (key, f"{other}.{name}")))
                if name == "weight" and f"{owner}.bias" in shapes:
                    found.append(_pair(f"{owner} and {other}", (key, f"{other}.weight"), (f"{owner}.bias", f"{other}.bias")))
    weights = [key for key in shapes if key.endswith(subject.joined[:1])] if subject.joined else []
    for weight in weights:
        size = shapes[weight][0] // 3
        bias = weight.removesuffix(subject.joined[0]) + subject.joined[1]
        for first, second in ((0, 1), (0, 2), (1, 2)):
            swap = _exchanging(0, first, second, size)
            found.append(Case("", f"parts {first} and {second} of {weight}", alter={weight: swap}))
            found.append(Case("", f"parts {first} and {second} of {weight} and its bias", alter={weight: swap, bias: swap}))
    return found


def _heads(subject: Subject, shapes: dict[str, tuple[int, ...]]) -> list[Case]:
    """Permute two heads of q, k or v alone: of all three at once it would be the same function."""
    if not subject.heads:
        return []
    ends = [part for pair in subject.separate for part in pair] + [end.removesuffix(".weight") for end in subject.joined]
    found = []
    for key, shape in shapes.items():
        owner = key.removesuffix(".weight").removesuffix(".bias")
        if not owner.endswith(tuple(ends)) or not shape[0] > 1:
            continue
        joined = 3 if subject.joined else 1
        size = shape[0] // joined // subject.heads
        for part in range(joined):
            for one, other in ((0, 1), (1, 3)):
                swap = _exchanging(0, part * subject.heads + one, part * subject.heads + other, size)
                found.append(Case("", f"heads {one} and {other} of part {part} of {key}", alter={key: swap}))
    return found


def _dead_copies(shapes: dict[str, tuple[int, ...]]) -> list[Case]:
    """Give a copy that the output does not depend on the right value, and leave the live tensor out."""
    return [
        Case("", f"{key}, {how}", left_out=(key,), copies={f"{key}_copy": key}, change=_adding_copy(key, read))
        for key in shapes
        if "." in key
        for how, read in (("never read", False), ("read without effect", True))
    ]


def _adding_copy(key: str, read: bool) -> Change:
    path, _, name = key.rpartition(".")

    def change(model: nn.Module) -> None:
        owner = model.get_submodule(path)
        owner.register_parameter(f"{name}_copy", nn.Parameter(getattr(owner, name).detach().clone() + 1))
        if read:
            owner.register_forward_hook(lambda module, _, out: out + 0.0 * getattr(module, f"{name}_copy").sum())

    return change


def _changes(kind: str, dst: nn.Module) -> Iterator[Case]:
    for path, module in dst.named_modules():
        for what, change in CHANGES[kind](module):
            yield Case("", f"{path}: {what}", change=_at(path, change), places=(path,))


def _removals(dst: nn.Module) -> Iterator[Case]:
    """Take activations and pools out; named by the source, so that both models must name their modules alike."""
    for path, module in dst.named_modules():
        if is_activation(module) or isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
            yield Case("", f"{path}: {module}", change=_at(path, replacing(nn.Identity)), places=(path,), removed=True)


def _at(path: str, change: Callable[[nn.Module], nn.Module | None]) -> Change:
    """Change the module at a path, or replace it by what the change returns."""

    def carry_out(model: nn.Module) -> None:
        replacement = change(model.get_submodule(path))
        if replacement is not None:
            owner, _, name = path.rpartition(".")
            setattr(model.get_submodule(owner), name, replacement)

    return carry_out


def changed(dst: nn.Module, case: Case) -> nn.Module:
    """Return a copy of the destination with the case's change; the destination itself where there is none."""
    if case.change is None:
        return dst
    twin = copy.deepcopy(dst)
    case.change(twin)
    return twin.eval()


def planted(case: Case, right: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the destination's tensors as the case has them: `right` is what they should be, `own` what they were."""
    values = {key: right.get(case.exchange.get(key, key), value) for key, value in own.items()}
    values |= {key: alter(values[key]) for key, alter in case.alter.items()}
    return values | {key: own[key] for key in case.left_out}
