"""Layers and their batch norms: a norm belongs to the layer that it stands with, so that both have one counterpart.

A norm has the shapes of many others in its model, where the layer before it has a shape of its own. So a norm that was
matched to another one than its layer's is wrong, or its layer is; it is left open.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from fxmap.matching.keys.entries import Entry, by_owner

Module = tuple[str, ...]


def parted(pairs: Iterable[tuple[int, int]], src: Sequence[Entry], dst: Sequence[Entry]) -> set[tuple[int, int]]:
    """Return the pairs of entries of norms whose layers are matched to others than those of their counterparts.

    >>> def unit(conv, norm, width): return [
    ...     Entry(conv, (*conv.split("."), "weight"), (4, width), True),
    ...     Entry(norm, (*norm.split("."), "running_var"), (4,), True)]
    >>> src = [*unit("a.conv", "a.norm", 1), *unit("b.conv", "b.norm", 2)]
    >>> dst = [*unit("pw", "bn1", 1), *unit("dw", "bn2", 2)]
    >>> parted([(0, 0), (1, 1), (2, 2), (3, 3)], src, dst), sorted(parted([(0, 0), (1, 3), (2, 2), (3, 1)], src, dst))
    (set(), [(1, 3), (3, 1)])
    """
    found = list(pairs)
    ours, theirs = norms_of_layers(src), norms_of_layers(dst)
    images = {src[s].owner: dst[d].owner for s, d in found if src[s].leaf == "weight"}
    # For each norm of one side, the norm of the other side that stands with the counterpart of its layer.
    right = {ours[layer]: theirs[other] for layer, other in images.items() if layer in ours and other in theirs}
    back = {other: norm for norm, other in right.items()}
    return {
        (s, d)
        for s, d in found
        if right.get(src[s].owner, dst[d].owner) != dst[d].owner or back.get(dst[d].owner, src[s].owner) != src[s].owner
    }


def norms_of_layers(entries: Sequence[Entry]) -> dict[Module, Module]:
    """Map layers to their batch norms: the one in the same module, or the one behind it in a module of several.

    Where modules stand in the order of their names, or begin with a norm, a norm need not belong to the layer before.

    >>> def layer(name, *leaves): return [Entry(f"{name}.{n}", (*name.split("."), n), s, True) for n, s in leaves]
    >>> conv, norm = (("weight", (4, 3, 1, 1)),), (("weight", (4,)), ("running_var", (4,)))
    >>> norms_of_layers([*layer("a.conv_pw", *conv), *layer("a.bn1", *norm), *layer("a.conv_dw", *conv)])
    {('a', 'conv_pw'): ('a', 'bn1')}
    """
    held = {module: {entries[n].leaf: entries[n] for n in numbers} for module, numbers in by_owner(entries).items()}
    beside: dict[Module, list[Module]] = defaultdict(list)
    for module, tensors in held.items():
        if module and ("running_var" in tensors or _is_layer(tensors)):
            beside[module[:-1]].append(module)
    result: dict[Module, Module] = {}
    for modules in beside.values():
        norms = [module for module in modules if "running_var" in held[module]]
        if len(modules) == 2 and len(norms) == 1:
            result[modules[1 - modules.index(norms[0])]] = norms[0]
        elif norms and modules[0] not in norms and not _is_by_name(modules):
            result.update(_behind(modules, held))
    return result


def _behind(modules: Sequence[Module], held: dict[Module, dict[str, Entry]]) -> Iterator[tuple[Module, Module]]:
    for one, other in pairwise(modules):
        norm = held[other].get("running_var")
        if norm is not None and _is_layer(held[one]) and held[one]["weight"].shape[:1] == norm.shape:
            yield one, other


def _is_layer(tensors: dict[str, Entry]) -> bool:
    return "weight" in tensors and len(tensors["weight"].shape) > 1


def _is_by_name(modules: Sequence[Module]) -> bool:
    names = [module[-1] for module in modules]
    return names == sorted(names) and not all(name.isdigit() for name in names)
