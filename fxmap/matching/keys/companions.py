"""Companions: norms that nothing else tells apart go with the convolutions that they are named after.

Two norms of a block have equal shapes, where its convolutions have not. Their names say which of them belong together:
`conv1` and `bn1`, `3_conv` and `3_bn`, `Conv_0` and `BatchNorm_0`, `downsample.0` and `downsample.1`. So where two
convolutions correspond, their norms do.

>>> from fxmap.matching.keys.entries import entries_of
>>> import torch
>>> def side(*names): return entries_of({f"{n}.weight": torch.ones(*(2,) * (4 if "onv" in n else 1)) for n in names})
>>> src, dst = side("a.Conv_0", "a.Conv_1", "a.Norm_0", "a.Norm_1"), side("b.conv1", "b.norm1", "b.conv2", "b.norm2")
>>> sorted(completed([(0, 0), (1, 2)], src, dst))
[(2, 1), (3, 3)]

Cost: linear in the number of entries.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

from fxmap.matching.keys.entries import Entry, by_owner

Module = tuple[str, ...]

# Words that say what a layer is, and not which of them.
_KIND = re.compile(
    r"(?:standardized)?conv(?:olution)?(?:\dd|2D)?|batch|group|layer|instance|normali[sz]ation|norm|bn|gn|ln|_| ",
    re.IGNORECASE,
)


def completed(pairs: Iterable[tuple[int, int]], src: Sequence[Entry], dst: Sequence[Entry]) -> list[tuple[int, int]]:
    """Return further pairs of entries: those of norms whose convolutions are a pair, and that have no other pair."""
    found = list(pairs)
    used = {s for s, _ in found}, {d for _, d in found}
    places = by_owner(src), by_owner(dst)
    ours, theirs = {conv: norm for norm, conv in companions(src).items()}, companions(dst)
    layers = {dst[d].owner: src[s].owner for s, d in found if dst[d].leaf == "weight" and len(dst[d].shape) > 2}
    result = []
    for norm, layer in theirs.items():
        other = ours.get(layers.get(layer, ()))
        if other is None:
            continue
        leaves = {src[s].leaf: s for s in places[0][other] if s not in used[0]}
        open_ = [d for d in places[1][norm] if d not in used[1] and dst[d].floating]
        if all(dst[d].leaf in leaves and src[leaves[dst[d].leaf]].shape == dst[d].shape for d in open_):
            result += [(leaves[dst[d].leaf], d) for d in open_]
    return result if len({s for s, _ in result}) == len(result) else []


def companions(entries: Sequence[Entry]) -> dict[Module, Module]:
    """Map the norms of one side to the convolutions that they are named after, where there is one of each."""
    convs: dict[tuple[Module, str], list[Module]] = defaultdict(list)
    norms: dict[tuple[Module, str], list[Module]] = defaultdict(list)
    for owner, numbers in by_owner(entries).items():
        weight = next((entries[n] for n in numbers if entries[n].leaf == "weight"), None)
        if owner and weight is not None:
            is_conv = len(weight.shape) > 2
            if is_conv or len(weight.shape) == 1:
                (convs if is_conv else norms)[owner[:-1], _which(owner[-1], is_conv)].append(owner)
    return {norms[name][0]: convs[name][0] for name in norms if len(norms[name]) == 1 == len(convs.get(name, ()))}


def _which(name: str, is_conv: bool) -> str:
    """Return what a name says beside the kind of the layer; of two neighbours in a list, the norm is the second one."""
    if name.isdigit():
        return f"at {int(name) + is_conv}"
    return _KIND.sub("", name)
