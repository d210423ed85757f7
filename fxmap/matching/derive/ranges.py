"""Ranges of activations that an int8 source has for the very places where an int8 destination has its own.

A place is an operation whose result is quantized, and the alignment says which operation of the destination is which of the
source. Where every place of the destination has a range in the source, no calibration data is needed: scales and zero
points are taken over like any other tensor, and so are integers of weights, so that nothing is rounded anew.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from torch import Tensor, fx

from fxmap.expressions.arithmetic import Number, Shifted
from fxmap.expressions.base import Expression, Source
from fxmap.expressions.layout import Reshape
from fxmap.forms.sites import RangeRef, Site
from fxmap.graph.kinds import Trait, has, kind_of
from fxmap.matching.align.alignment import Pair
from fxmap.normalize.network import Network

# Operations whose int8 kernels give their result the scale of their input (of the first), and those with one of their own.
_KEEP = {"max_pool", "avg_pool", "adaptive_avg_pool", "mean", "relu", "hardtanh", "cat"}


_FIXED = {
    **dict.fromkeys(("sigmoid", "hardsigmoid"), Site("", 1 / 256, 0, 0, 255)),
    "tanh": Site("", 1 / 128, 128, 0, 255),
}


@dataclass(frozen=True)
class Quantizer:
    """One of two converted models: its sites, its captured float twin, and its own state dict, whose keys have a `prefix`.

    `stays` says that values stay quantized from one operation to the next, and are not dequantized between them.
    """

    sites: tuple[Site, ...]
    captured: Network
    state: Mapping[str, Tensor]
    prefix: str
    stays: bool


# An operation, and which part of its result: the arguments of what takes the part.
Place = tuple[str, tuple[str, ...]]


@dataclass
class Taken:
    """Ranges that are taken over: of keys, and of literals, by the name of their node (scale before zero point).

    `idle` are ranges that no operation reads: functions that are never called. `others` counts the source's ranges
    that the destination has nothing for.
    """

    keys: dict[str, Expression] = field(default_factory=dict)
    literals: dict[str, tuple[Expression, Expression]] = field(default_factory=dict)
    idle: set[RangeRef] = field(default_factory=set)
    others: int = 0


def take_over(
    src: Quantizer, dst: Quantizer, pairs: Iterable[Pair], owners: Mapping[str, str] = MappingProxyType({})
) -> Taken | str:
    """Find for every site of the destination the range of the source; or say why one has none.

    `pairs` are the operations that correspond; `owners` say of modules of the destination, by path, from which module of the
    source all their tensors come: ranges inside of layers that torch took apart correspond by their names there. The
    expressions read the source's state dict, and make what the destination's holds.
    """
    ours, theirs = _Places(src), _Places(dst)
    partners = {pair.dst: pair.src for pair in pairs}
    found: dict[Site, Site] = {}
    if theirs.nowhere:
        return f"{theirs.nowhere[0]} is at no single operation"
    for place in theirs.sites:
        own = ours.at((partners[place[0]], place[1])) if place[0] in partners else []
        reason = _match(ours, own, theirs, place, found)
        if reason:
            return f"{reason}, at {theirs.describe(place)}"
    for site in theirs.inner:
        one = ours.inside(owners.get(theirs.owner(site), ""), site.path.removeprefix(theirs.owner(site)))
        if one is None:
            return (
                f"{site} is inside of {theirs.owner(site)}, which has no counterpart that keeps its ranges in the same way"
            )
        found[site] = one
    for name, before in theirs.shared():
        behind = ours.own((partners.get(name, ""), ()))[:1]
        ranges = {ours.numbers(found[site]) if site in found else theirs.numbers(site) for site in before}
        if behind and ranges != {ours.numbers(behind[0])}:
            return f"the destination has one range before and behind {theirs.describe((name, ()))}, the source several"
    idle = {number for site in theirs.idle for number in site.numbers()}
    taken = Taken(idle=idle, others=len(set(src.sites) - set(ours.idle) - set(found.values())))
    for other, one in found.items():
        _add(taken, src, one, dst, other)
    return taken


def _match(ours: "_Places", own: list[Site], theirs: "_Places", place: Place, found: dict[Site, Site]) -> str:
    """Note the source's sites for those of one place of the destination; or say why they do not correspond."""
    sites = theirs.at(place)
    if len(own) != len(sites) and len({ours.numbers(site) for site in own}) == 1:
        own = own[:1] * len(sites)
    if len(own) != len(sites):
        return f"the destination has {len(sites)} ranges, {sites[-1]}, and the source {len(own)}"
    for one, other in zip(own, sites, strict=True):
        if other not in theirs.sites[place]:
            continue
        if one.high - one.low != other.high - other.low:
            return f"{other} has {other.high - other.low + 1} integers, and the source {one.high - one.low + 1}"
        if found.setdefault(other, one) != one:
            return f"{other} is the range of several operations"
    return ""


def _add(taken: Taken, src: Quantizer, one: Site, dst: Quantizer, other: Site) -> None:
    """Add what makes the range of a destination's site from that of a source's."""
    scale = _read(src, one.scale, dst, other.scale)
    zero_point = _read(src, one.zero_point, dst, other.zero_point)
    if one.low != other.low:
        # Other integers for the same numbers.
        zero_point = Shifted(zero_point, other.low - one.low)
    if other.node:
        taken.literals[other.node] = scale, zero_point
    else:
        taken.keys |= {dst.prefix + str(other.scale): scale, dst.prefix + str(other.zero_point): zero_point}


def _read(src: Quantizer, one: str | float, dst: Quantizer, other: str | float) -> Expression:
    """Return what reads a number of the source in the shape in which the destination has it."""
    shape = tuple(dst.state[other].shape) if isinstance(other, str) else ()
    if not isinstance(one, str):
        return Number(shape, one)
    own = Source(src.prefix + one)
    return own if tuple(src.state[one].shape) == shape else Reshape(own, shape)


class _Places:
    """The sites of a model by the operations whose results they quantize, in the order of the graph."""

    def __init__(self, model: Quantizer) -> None:
        self.model = model
        captured = model.captured
        self.nodes = {node.name: node for node in captured.graph.nodes}
        stubs = [path for path, part in captured.module.named_modules() if type(part).__name__ == "DeQuantStub"]
        # Where values leave int8.
        self.exits = {name for path in stubs for name in captured.returned.get(path, ())}
        outputs: dict[str, list[str]] = {}
        for op in captured.ops.ops():
            outputs.setdefault(op.output, []).append(op.name)
        self.operations = {output: names[0] for output, names in outputs.items() if len(names) == 1}
        self.sites: dict[Place, list[Site]] = {}
        # Places of which the value is dequantized before it is quantized again.
        self.left: set[Place] = set()
        order = {name: position for position, name in enumerate(self.nodes)}
        calls = {site: captured.returned.get(site.path) for site in model.sites}
        self.modules = {path for path, _ in captured.module.named_modules()}
        # Ranges of functions that are never called; inside of layers that are one module of the twin; and without a place.
        self.idle = [site for site, names in calls.items() if names is None and site.path in self.modules]
        self.inner = [site for site in calls if site.path not in self.modules]
        self.nowhere = [site for site, names in calls.items() if names is not None and not set() < {*names} <= order.keys()]
        found = [(name, site) for site, names in calls.items() for name in names or () if name in order]
        for name, site in sorted(found, key=lambda pair: order[pair[0]]):
            self._place(site, self.nodes[name])

    def _place(self, site: Site, node: fx.Node) -> None:
        steps = list(self._behind(node))
        place = self._at(steps)
        if place is None:
            self.nowhere.append(site)
            return
        if place not in self.sites and any(step.name in self.exits for step in steps):
            self.left.add(place)
        self.sites.setdefault(place, []).append(site)

    def _at(self, steps: list[fx.Node]) -> Place | None:
        """Return the place of a value, by what `_behind` gives for it."""
        name = self.operations.get(steps[-1].name)
        parts = [step for step in steps[-2::-1] if has(kind_of(step), Trait.PART)]
        return None if name is None else (name, tuple(str(step.args[1:]) for step in parts))

    def owner(self, site: Site) -> str:
        """Return the module of the twin that a site is inside of."""
        path = site.path
        while path not in self.modules:
            path = path.rpartition(".")[0]
        return path

    def inside(self, owner: str, name: str) -> Site | None:
        """Return the site of a name inside of a module of the twin."""
        return next((site for site in self.inner if site.path == owner + name), None) if owner else None

    def describe(self, place: Place) -> str:
        """Name a place for a message."""
        return str(self.model.captured.ops.op(place[0]))

    def numbers(self, site: Site) -> tuple[float | str, ...]:
        """Return the range of a site as numbers, of the model's own state: those that share an observer have the same."""
        return self._number(site.scale), self._number(site.zero_point), site.low, site.high

    def _number(self, value: str | float) -> float | str:
        if not isinstance(value, str):
            return value
        held = self.model.state[value]
        return value if held.is_meta else float(held)

    def own(self, place: Place) -> list[Site]:
        """Return the sites of a place whose value is quantized by them, and not by an int8 kernel before them."""
        return [] if place in self.left else self.sites.get(place, [])

    def at(self, place: Place) -> list[Site]:
        """Return the sites of a place; before them that whose range an int8 kernel keeps there."""
        return self.own(place) or [*self._kept(place)[:1], *self.sites.get(place, [])]

    def shared(self) -> Iterator[tuple[str, list[Site]]]:
        """Yield operations that keep the scale of their inputs, and the sites of these."""
        for name in self.operations.values() if self.model.stays else ():
            place: Place = name, ()
            if not self.own(place) and (kept := self._kept(place)):
                yield name, kept

    def _kept(self, place: Place) -> list[Site]:
        """Return for every input of an operation the site whose range its int8 kernel keeps; none where it is in float."""
        name, part = place
        if not self.model.stays:
            return []
        if part:
            return self.at((name, part[:-1]))[-1:]
        op = self.model.captured.ops.op(name)
        found: list[Site] = []
        for value in _data(self.nodes[op.output]) if op.kind in _KEEP | _FIXED.keys() else ():
            steps = list(self._behind(value))
            before = None if any(step.name in self.exits for step in steps) else self._at(steps)
            found += self.at(before)[-1:] if before is not None else []
        return [_FIXED[op.kind]] if found and op.kind in _FIXED else found

    def _behind(self, node: fx.Node) -> Iterator[fx.Node]:
        """Yield a node and those before it, as long as they move its elements and compute nothing, up to an operation."""
        yield node
        while node.name not in self.operations and has(kind_of(node), Trait.MOVEMENT | Trait.IDENTITY):
            inputs = _data(node)
            if len(inputs) != 1:
                return
            (node,) = inputs
            yield node


def _data(node: fx.Node) -> list[fx.Node]:
    """Return what a node computes its value from: its first argument, or the values in it."""
    first = node.args[0] if node.args else None
    return [value for value in (first if isinstance(first, list | tuple) else (first,)) if isinstance(value, fx.Node)]
