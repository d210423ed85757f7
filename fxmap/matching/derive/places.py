"""Quantized places: the quantization sites of a converted int8 model, by the operations whose results they quantize.

A site is a pair of scale and zero point with the integers that they map to (`fxmap.forms.sites`): a quantize node of the
graph, or an int8 module's own range. A place is an operation of the float twin's graph, since alignment compares these.
Between an operation and the node that quantizes its result, data may be moved but not computed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, fx

from fxmap.forms.sites import Site
from fxmap.graph.kinds import Trait, has, kind_of
from fxmap.normalize.network import Network

# Operations whose int8 kernels give their result the scale and zero point of their input (the first, of several).
_KEEP_THE_INPUTS_RANGE = {"max_pool", "avg_pool", "adaptive_avg_pool", "mean", "relu", "hardtanh", "cat"}

# Operations whose int8 kernels give their result a fixed range: that of the function.
_FIXED_RANGE = {
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


# An operation, and the part of its result, by the arguments of the nodes that take the part.
Place = tuple[str, tuple[str, ...]]


class QuantizedPlaces:
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
        # Places whose value is dequantized before it is quantized again.
        self.left: set[Place] = set()
        order = {name: position for position, name in enumerate(self.nodes)}
        calls = {site: captured.returned.get(site.path) for site in model.sites}
        self.modules = {path for path, _ in captured.module.named_modules()}
        # Sites of functions that are never called; inside layers that are one module of the twin; and without a place.
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
        """Return the place of a value from the nodes that `_behind` yields for it; None if there is no single operation."""
        name = self.operations.get(steps[-1].name)
        return None if name is None else (name, tuple(str(s.args[1:]) for s in steps[-2::-1] if has(kind_of(s), Trait.PART)))

    def owner(self, site: Site) -> str:
        """Return the path of the twin's module that contains a site."""
        path = site.path
        while path not in self.modules:
            path = path.rpartition(".")[0]
        return path

    def inside(self, owner: str, name: str) -> Site | None:
        """Return the site with a given name inside a module of the twin, or None."""
        return next((site for site in self.inner if site.path == owner + name), None) if owner else None

    def describe(self, place: Place) -> str:
        """Name a place for a message."""
        return str(self.model.captured.ops.op(place[0]))

    def numbers(self, site: Site) -> tuple[float | str, ...]:
        """Return the range of a site as numbers from the model's state dict, equal for sites that share an observer."""
        return self._number(site.scale), self._number(site.zero_point), site.low, site.high

    def _number(self, value: str | float) -> float | str:
        if not isinstance(value, str):
            return value
        held = self.model.state[value]
        return value if held.is_meta else float(held)

    def own(self, place: Place) -> list[Site]:
        """Return the sites of a place if they quantize its value; none if it was dequantized from int8 before."""
        return [] if place in self.left else self.sites.get(place, [])

    def at(self, place: Place) -> list[Site]:
        """Return the sites of a place, preceded by the site whose range an int8 kernel keeps there, if there is one."""
        return self.own(place) or [*self._kept(place)[:1], *self.sites.get(place, [])]

    def before(self, name: str) -> list[Site]:
        """Return the sites of what an operation reads as its only data, with nothing between but what moves elements."""
        data = _data(self.nodes[self.model.captured.ops.op(name).output])
        place = self._at(list(self._behind(data[0]))) if len(data) == 1 else None
        return [] if place is None else self.own(place)

    def real(self, site: Site) -> tuple[float, float, float] | None:
        """Return the least and the largest number of a site, and its step; None where they are not numbers."""
        scale, zero_point, low, high = self.numbers(site)
        if isinstance(scale, str) or isinstance(zero_point, str):
            return None
        return (float(low) - zero_point) * scale, (float(high) - zero_point) * scale, scale

    def shared(self) -> Iterator[tuple[str, list[Site]]]:
        """Yield operations that keep the scale of their inputs, with the sites of the inputs."""
        for name in self.operations.values() if self.model.stays else ():
            place: Place = name, ()
            if not self.own(place) and (kept := self._kept(place)):
                yield name, kept

    def _kept(self, place: Place) -> list[Site]:
        """Return, for every int8 input of an operation, the site whose range the operation's int8 kernel keeps."""
        name, part = place
        if not self.model.stays:
            return []
        if part:
            return self.at((name, part[:-1]))[-1:]
        op = self.model.captured.ops.op(name)
        found: list[Site] = []
        for value in _data(self.nodes[op.output]) if op.kind in _KEEP_THE_INPUTS_RANGE | _FIXED_RANGE.keys() else ():
            steps = list(self._behind(value))
            before = None if any(step.name in self.exits for step in steps) else self._at(steps)
            found += self.at(before)[-1:] if before is not None else []
        return [_FIXED_RANGE[op.kind]] if found and op.kind in _FIXED_RANGE else found

    def _behind(self, node: fx.Node) -> Iterator[fx.Node]:
        """Yield a node and its producers, up to the nearest operation, as long as they only move elements."""
        yield node
        while node.name not in self.operations and has(kind_of(node), Trait.MOVEMENT | Trait.IDENTITY):
            inputs = _data(node)
            if len(inputs) != 1:
                return
            (node,) = inputs
            yield node


def _data(node: fx.Node) -> list[fx.Node]:
    """Return the nodes that a node reads as data: its first argument, or the nodes in that list."""
    first = node.args[0] if node.args else None
    return [value for value in (first if isinstance(first, list | tuple) else (first,)) if isinstance(value, fx.Node)]
