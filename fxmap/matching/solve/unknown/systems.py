"""Systems: the linear equations of a value that is affine in unknown weights, one system for each of its elements.

The samples are the rows. Elements of a layer's output read few weights each (one row of the matrix), so that the systems are
small; they are found by the gradient of one element for all samples at once, with a copy of the weights for each sample.
Systems with equal columns, such as those of all channels of a layer, are solved by one factorisation.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, fx

from fxmap.matching.solve.known.source import TooLarge, elements
from fxmap.matching.solve.runs.stacked import Samples, Value
from fxmap.matching.solve.unknown.frontier import Advance, Frontier
from fxmap.matching.solve.unknown.orders import coordinates

# So many samples more than unknowns make a system overdetermined.
MARGIN = 6

# So many gradients are kept.
_KEPT = 8

# How often the numbers of a gradient are gone over: made, joined, and asked for those that are not 0.
_PASSES = 6

# So many samples tell which elements one weight moves.
_MOVED = 3

# Up to so many numbers, the gradients of all elements are made by one pass, each element with copies of the samples.
_AT_ONCE = 700_000


@dataclass(frozen=True)
class Equations:
    """The system of one factorisation: an orthonormal basis of its columns, its inverse, and the columns themselves."""

    basis: Tensor
    inverse: Tensor
    columns: Tensor

    @property
    def overdetermined(self) -> bool:
        """Whether there are enough samples for a residual to tell something."""
        return self.basis.shape[0] >= self.basis.shape[1] + MARGIN

    @property
    def dependent(self) -> bool:
        """Whether some columns depend on others, so that there are many solutions."""
        return self.basis.shape[1] < self.columns.shape[1]


@dataclass(frozen=True)
class Unknown:
    """One element of a value: its number, the entries of the weights that it reads, and its value where these are 0."""

    element: int
    entries: Tensor
    rest: Tensor
    equations: Equations


@dataclass(frozen=True)
class Point:
    """A value to solve for: its node, the shape of its elements, one system for each group of entries, by factorisation."""

    node: fx.Node
    shape: tuple[int, ...]
    systems: tuple[Unknown, ...]

    def without(self, known: Tensor) -> "Point | None":
        """Return the systems that are left where more entries are known; None where some belong to systems that are left."""
        left = []
        for system in self.systems:
            met = known[system.entries]
            if not bool(met.any()):
                left.append(system)
            elif not bool(met.all()):
                return None
        return self if len(left) == len(self.systems) else Point(self.node, self.shape, tuple(left))

    def classes(self) -> list[list[Unknown]]:
        """Return the systems that share a factorisation, in the order of their elements."""
        found: dict[int, list[Unknown]] = {}
        for system in sorted(self.systems, key=lambda one: one.element):
            found.setdefault(id(system.equations), []).append(system)
        return list(found.values())


class Factorisations:
    """The factorisations of all systems met, by their columns: those of one layer are met again and again."""

    LIMIT = 40_000_000

    def __init__(self) -> None:
        self._whole: dict[str, Equations] = {}
        self._short: dict[str, Equations] = {}
        self._held = 0

    def known(self, first: Tensor) -> Equations | None:
        """Return the system whose columns begin with these rows, if all of its columns are seen in them."""
        found = self._short.get(_print(first))
        return found if found is not None and found.columns.shape[1] == first.shape[1] else None

    def of(self, columns: Tensor, rows: int) -> Equations:
        """Return the factorised system of some columns; it is known by so many first rows from then on.

        Raises:
            TooLarge: all of them together have too many numbers.
        """
        key = _print(columns)
        if key not in self._whole:
            self._held += 3 * columns.numel()
            if self._held > self.LIMIT:
                raise TooLarge(f"{len(self._whole)} systems of equations have more than {self.LIMIT} numbers")
            self._whole[key] = _factorised(columns)
        self._short.setdefault(_print(columns[:rows]), self._whole[key])
        return self._whole[key]


def _print(columns: Tensor) -> str:
    weights = torch.linspace(1.0, 2.0, len(columns), dtype=torch.float64).sin()
    return " ".join(f"{number:.8e}" for number in (weights @ columns).tolist())


class Systems:
    """Finds the systems of a value at the frontier."""

    LIMIT = 40_000_000
    FEW = 16

    def __init__(
        self, advance: Advance, frontier: Frontier, node: fx.Node, samples: int, factorisations: Factorisations
    ) -> None:
        self.advance, self.weights, self.frontier, self.node = advance, frontier.weights, frontier, node
        self.factorisations = factorisations
        weights, layout = self.weights, self.weights.layout
        self.paths = sorted(path for path in advance.upstream[node] & layout.shapes.keys() if weights.unknown(path))
        places = [torch.arange(layout.place(path).start, layout.place(path).stop) for path in self.paths]
        self.entries = torch.cat(places)
        if samples * len(self.entries) > self.LIMIT:
            large = f"{len(self.entries)} unknown numbers lead to {node.name} of the destination"
            raise TooLarge(f"{large}: a system of {samples} samples of them has more than {self.LIMIT} numbers")
        self.free = ~weights.known[self.entries]
        self.few = min(self.FEW, samples)
        self.known = frontier.known()
        self.between = advance.between(node, self.known)
        self.leaf, self.value = self._traced(samples)
        # A run of a few samples tells most things.
        self.small_leaf, self.small = self._traced(self.few)
        self._shorts: dict[int, Tensor] = {}
        self._every: Tensor | None = None

    def _traced(self, count: int, times: int = 1) -> tuple[Tensor, Tensor]:
        """Return a copy of the weights for each of the first samples, which are taken so many times, and the value."""
        leaf = self.weights.numbers[self.entries].expand(count * times, -1).clone().requires_grad_(True)
        with torch.enable_grad():
            return leaf, self._run(leaf, times)

    def _run(self, leaf: Tensor, times: int = 1) -> Tensor:
        leaves, begin = {}, 0
        for path in self.paths:
            place = self.weights.layout.place(path)
            size = place.stop - place.start
            leaves[path] = Value(self.weights.layout.tensor(path, leaf[:, begin : begin + size]), stacked=True)
            begin += size
        values = Samples(self.known, len(leaf) // times, times)
        parts = elements(self.advance.recomputed(self.node, self.weights, values, leaves, self.between))
        return torch.cat([part.reshape(len(part), -1) for part in parts], 1)

    def shape(self) -> tuple[int, ...]:
        """Return the shape of the value's elements; one axis where it has several tensors."""
        values = Samples(self.known, 1)
        parts = elements(self.advance.recomputed(self.node, self.weights, values, {}, self.between))
        return tuple(parts[0].shape[1:]) if len(parts) == 1 else (self.value.shape[1],)

    def _at_once(self) -> None:
        """Make the gradients of all elements for as many samples as tell something by one pass, if they are not too many."""
        size, entries = self.value.shape[1], len(self.entries)
        alone = any(node in self.advance.interpreter.exact for node in self.between)
        for count in (self.few, _MOVED):
            if not alone and size * count * (size + entries) <= _AT_ONCE:
                leaf, value = self._traced(count, size)
                goal = value.reshape(size, count, size).diagonal(dim1=0, dim2=2).sum()
                (gradient,) = self._backward(goal, leaf, value)
                self._every = gradient.reshape(size, count, entries) * self.free
                return

    def _felt(self) -> Tensor:
        """Return which unknown entries the value depends on, by one backward pass."""
        generator = torch.Generator().manual_seed(17)
        cotangent = torch.randn(self.value.shape, generator=generator, dtype=torch.float64)
        (gradient,) = self._backward((self.value * cotangent).sum(), self.leaf, self.value)
        return self.free & (gradient.abs().amax(0) > 0)

    def _backward(self, goal: Tensor, leaf: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        """Return the gradient of a goal that is made of a value; a large table costs as much as it has rows, read or not."""
        runs = len(self.paths) + len(self.between) / 4
        self.advance.interpreter.effort.spend(runs=runs, numbers=2 * value.numel() + _PASSES * leaf.numel())
        return torch.autograd.grad(goal, leaf, retain_graph=True)

    def _moved(self, entry: int) -> list[int]:
        """Return the elements of the value that one entry moves: in the first samples, or if it moves none in all."""
        for count in (_MOVED, self.few, len(self.leaf)):
            change = self._change(entry, count).abs()
            size = float(change.max())
            if size > 0:
                return (change.amax(0) > 1e-9 * size).nonzero().flatten().tolist()
        return []

    def _change(self, entry: int, count: int) -> Tensor:
        """Return by how much one entry moves the value of the first samples."""
        if self._every is not None and count <= self._every.shape[1]:
            return self._every[:, :count, entry].T
        with torch.no_grad():
            moved = self.leaf[:count].detach().clone()
            moved[:, entry] += 1.0
            return self._run(moved) - self.value[:count].detach()

    def _gradient(self, element: int) -> Tensor:
        """Return the columns of the system of one element, `samples entries`."""
        (gradient,) = self._backward(self.value[:, element].sum(), self.leaf, self.value)
        return gradient.mul_(self.free)

    def _short(self, element: int) -> Tensor:
        """Return the first rows of the columns of the system of one element."""
        if self._every is not None and self._every.shape[1] == self.few:
            return self._every[element]
        if element not in self._shorts:
            (gradient,) = self._backward(self.small[:, element].sum(), self.small_leaf, self.small)
            self._shorts = {**dict(list(self._shorts.items())[-_KEPT:]), element: gradient * self.free}
        return self._shorts[element]

    def point(self, shape: tuple[int, ...]) -> Point:
        """Return the systems of the value: enough of them that each unknown entry which it reads is in one."""
        covered = ~self._felt()
        if not bool(covered.all()):
            self._at_once()
        found: list[Unknown] = []
        last: Unknown | None = None
        while not bool(covered.all()):
            entry = int((~covered).nonzero()[0])
            covered[entry] = True
            moved = self._moved(entry)
            if not moved:
                continue
            last, support = self._system(self._best(moved, last, shape))
            covered[support] = True
            found.append(last)
        return Point(self.node, shape, tuple(found))

    def _best(self, moved: list[int], last: Unknown | None, shape: tuple[int, ...]) -> int:
        """Choose the element that reads most entries, not one at the border of a map; near the last one, if it does."""
        tried = list(dict.fromkeys(moved[int(share * (len(moved) - 1))] for share in (0.0, 0.21, 0.4, 0.61, 1.0)))
        if last is not None:
            place, others = (coordinates(torch.tensor(one), shape) for one in ([last.element], moved))
            near = moved[int((others == place).sum(0).argmax())]
            if self._read(near) >= len(last.entries):
                return near
            tried.insert(0, near)
        return max(tried, key=self._read)

    def _read(self, element: int) -> int:
        """Return how many entries an element reads, as a few samples show it."""
        return len(_support(self._short(element)))

    def _system(self, element: int) -> tuple[Unknown, Tensor]:
        """Return the system of one element, and which entries it reads."""
        columns = self._short(element)
        support = _support(columns)
        equations = self.factorisations.known(columns[:, support])
        if equations is None:
            columns = self._gradient(element)
            support = _support(columns)
            equations = self.factorisations.of(columns[:, support], self.few)
        rest = self.value[:, element].detach() - equations.columns @ self.leaf[0].detach()[support]
        return Unknown(element, self.entries[support], rest, equations), support


def _support(columns: Tensor) -> Tensor:
    """Return which columns are not 0."""
    size = columns.abs().amax(0)
    return (size > 1e-10 * size.max()).nonzero().flatten()


def _factorised(columns: Tensor) -> Equations:
    """Factorise a system; of columns that depend on others, the first ones are solved for, and the others are 0."""
    scale = columns.norm(dim=0).clamp_min(1e-300)
    right = torch.linalg.qr(columns / scale).R
    diagonal = right.diagonal().abs()
    free = diagonal > 1e-9 * diagonal.max()
    # Columns in their order: one that depends on those before it has nothing on the diagonal.
    picked = free.nonzero().flatten()
    basis, small = torch.linalg.qr((columns / scale)[:, picked])
    inverse = torch.zeros(columns.shape[1], len(columns), dtype=torch.float64)
    inverse[picked] = torch.linalg.solve_triangular(small, basis.T, upper=True) / scale[picked, None]
    return Equations(basis, inverse, columns)
