"""Wrappers (DataParallel, torch.compile, FSDP) put names into keys: take them off a model, and spell keys with or without.

The two spellings of weight norm's tensors are treated in the same way.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

# Prefixes that wrappers of torch put before every key, or before those of one block.
WRAPPERS = ("module.", "_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")

# `module` is also an honest name: only at the root is it taken for that of DataParallel.
_INSIDE = frozenset(wrapper[:-1] for wrapper in WRAPPERS[1:])

_ROOT = WRAPPERS[0][:-1]

# Names of the size and the direction that weight norm stores: in the newer parametrization, and in the older module.
_PARAMETRIZED = {"original0": "g", "original1": "v"}

# More roots than this that fit equally well are no wrappers, but parts of another model.
_MANY_ROOTS = 4


def unwrap(model: nn.Module) -> tuple[nn.Module, str]:
    """Take DataParallel, DistributedDataParallel and torch.compile off a model; return it and the prefix of its keys.

    >>> unwrap(nn.DataParallel(nn.Linear(2, 2)))
    (Linear(in_features=2, out_features=2, bias=True), 'module.')
    """
    prefix = ""
    while _wraps(model):
        name = next((wrapper[:-1] for wrapper in WRAPPERS if set(model._modules) == {wrapper[:-1]}), None)
        if name is None:
            break
        model, prefix = getattr(model, name), f"{prefix}{name}."
    return model, prefix


def _wraps(model: nn.Module) -> bool:
    """Tell whether a model is of a class of torch that wraps another model."""
    return type(model).__module__.startswith(("torch.nn.parallel.", "torch._dynamo.", "torch.distributed."))


def plain(key: str) -> str:
    """Return a key without the names that wrappers add, and with weight norm in its older spelling.

    >>> plain("module.blocks.0._checkpoint_wrapped_module.conv.weight")
    'blocks.0.conv.weight'
    >>> plain("conv.parametrizations.weight.original0")
    'conv.weight_g'
    """
    parts = key.split(".")
    while parts[:-1] and (parts[0] == _ROOT or parts[0] in _INSIDE):
        parts = parts[1:]
    parts = [part for part in parts if part not in _INSIDE]
    if parts[-3:-2] == ["parametrizations"] and parts[-1] in _PARAMETRIZED:
        parts = [*parts[:-3], f"{parts[-2]}_{_PARAMETRIZED[parts[-1]]}"]
    return ".".join(parts)


@dataclass(frozen=True)
class Root:
    """The prefix to strip from a key, and the one to add, to spell it as on the other side."""

    strip: str = ""
    add: str = ""

    def apply(self, key: str) -> str:
        return self.add + (key.removeprefix(self.strip) if key.startswith(self.strip) else key)


@dataclass(frozen=True)
class Spelling:
    """How keys of one side are spelled on the other: `names` has every key, by the other side's spelling where there is one.

    `note` names the prefixes that were stripped and added, and others that would fit as well; `root` is the prefix itself.
    """

    names: dict[str, str]
    note: str = ""
    root: Root = Root()


def spell(keys: Iterable[str], wanted: Iterable[str]) -> Spelling:
    """Strip and add names of wrappers, anywhere in the keys, so that as many keys as possible equal wanted ones.

    Keys without a counterpart keep their own spelling. Linear in the number of keys, times their depth.

    >>> spell(["module.encoder.fc.weight"], ["fc.weight"]).note
    "stripped 'module.', 'encoder.'"
    """
    keys, wanted = list(keys), list(wanted)
    ours, theirs = {key: plain(key) for key in keys}, {plain(key): key for key in wanted}
    root, notes = _root(list(ours.values()), set(theirs))
    names, used = {}, set()
    for key in keys:
        name = theirs.get(root.apply(ours[key]))
        # Two keys of one plain spelling are different tensors: only one of them can be meant.
        names[key] = key if name is None or name in used else name
        used.add(names[key])
    changed = [key for key in keys if names[key] != key]
    if not changed:
        return Spelling({key: key for key in keys})
    stripped = [*_wrappers(changed, [names[key] for key in changed]), *([root.strip] if root.strip else [])]
    added = [*_wrappers([names[key] for key in changed], changed), *([root.add] if root.add else [])]
    words = [f"{verb} {', '.join(map(repr, what))}" for verb, what in (("stripped", stripped), ("added", added)) if what]
    if any("parametrizations." in key + names[key] for key in changed):
        words.append("weight norm is spelled the older way on one side and the newer way on the other")
    return Spelling(names, "; ".join([*words, *notes]), root)


def _root(keys: list[str], wanted: set[str]) -> tuple[Root, list[str]]:
    """Return the prefix that only one side has, if removing it makes more keys equal, and a note on equally good ones."""
    equal = sum(key in wanted for key in keys)
    strip, stripped, others = _best(_roots(keys, wanted))
    add, added, _ = _best(_roots(wanted, set(keys)))
    if max(stripped, added) <= equal:
        return Root(), []
    if added > stripped:
        return Root(add=add), []
    choice = [f"the same keys are also under {', '.join(map(repr, others))}, which are left"] if others else []
    return Root(strip=strip), choice


def _roots(keys: Iterable[str], wanted: set[str]) -> Counter[str]:
    """Count, for every prefix, the keys that are wanted keys once it is removed."""
    found: Counter[str] = Counter()
    for key in keys:
        parts = key.split(".")
        for depth in range(1, len(parts)):
            if ".".join(parts[depth:]) in wanted:
                found[".".join(parts[:depth]) + "."] += 1
    return found


def _best(roots: Counter[str]) -> tuple[str, int, list[str]]:
    """Return the most frequent prefix, its count, and the other prefixes of that count; raw weights before averaged ones."""
    if not roots:
        return "", 0, []
    most = max(roots.values())
    equals = [root for root, count in roots.items() if count == most]
    if len(equals) > _MANY_ROOTS:
        return "", 0, []
    equals.sort(key=is_average)
    return equals[0], most, equals[1:]


def is_average(name: str) -> bool:
    """Tell whether a name is that of averaged weights.

    >>> is_average("model_ema."), is_average("schema."), is_average("state_dict_ema")
    (True, False, True)
    """
    return "ema" in name.lower().replace(".", "_").replace("-", "_").split("_")


def _wrappers(keys: list[str], others: list[str]) -> list[str]:
    """Return the wrappers that stand in some key and not in its counterpart, outermost first."""
    found = {
        part: None
        for key, other in zip(keys, others, strict=True)
        for part, count in Counter(key.split(".")[:-1]).items()
        if part + "." in WRAPPERS and count > other.split(".")[:-1].count(part)
    }
    return [part + "." for part in found]


def match_prefix(state_dict: Mapping[str, Any], wanted: set[str]) -> tuple[Mapping[str, Any], str]:
    """Respell the keys of a state dict as the wanted keys, and return it with a note on the changes.

    >>> match_prefix({"module.fc.weight": 1}, {"fc.weight"})
    ({'fc.weight': 1}, "stripped 'module.'")
    """
    if wanted <= state_dict.keys():
        return state_dict, ""
    state_dict = {key: value for key, value in state_dict.items() if isinstance(key, str)}
    spelling = spell(state_dict, wanted)
    if not spelling.note:
        return state_dict, ""
    return {spelling.names[key]: value for key, value in state_dict.items()}, spelling.note
