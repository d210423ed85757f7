"""Systems: the linear equations of a value that is affine in unknown weights, one system for each of its elements.

The samples are the rows. Elements of a layer's output read few weights each (one row of the matrix), so that the systems are
small; they are found by the gradient of one element for all samples at once, with a copy of the weights for each sample.
Systems with equal columns, such as those of all channels of a layer, are solved by one factorisation.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, fx

from fxmap.matching.solve.frontier import Advance, Frontier, State
from fxmap.matching.solve.source import TooLarge, elements
from fxmap.matching.solve.stacked import Value
from fxmap.matching.solve.unknowns import Weights

# So many samples more than unknowns make a system overdetermined.
MARGIN = 6


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

    def classes(self) -> list[list[Unknown]]:
        """Return the systems that share a factorisation, in the order of their elements."""
        found: dict[int, list[Unknown]] = {}
        for system in sorted(self.systems, key=lambda one: one.element):
            found.setdefault(id(system.equations), []).append(system)
        return list(found.values())


class Systems:
    """Finds the systems of a value at the frontier."""

    LIMIT = 60_000_000

    def __init__(self, advance: Advance, weights: Weights, frontier: Frontier, node: fx.Node, samples: int) -> None:
        self.advance, self.weights, self.frontier, self.node = advance, weights, frontier, node
        self.paths = sorted(path for path in advance.upstream[node] & weights.layout.shapes.keys() if weights.unknown(path))
        layout = weights.layout
        places = [torch.arange(layout.place(path).start, layout.place(path).stop) for path in self.paths]
        self.entries = torch.cat(places)
        if samples * len(self.entries) > self.LIMIT:
            raise TooLarge(f"{len(self.entries)} weights lead to {node.name}, too many to solve for at once")
        self.free = ~weights.known[self.entries]
        self.leaf = weights.numbers[self.entries].clone()
        self.leaf = self.leaf.expand(samples, -1).clone().requires_grad_(True)
        with torch.enable_grad():
            self.value = self._run(self.leaf)
        self.few = min(3, samples)

    def _run(self, leaf: Tensor) -> Tensor:
        leaves, begin = {}, 0
        for path in self.paths:
            place = self.weights.layout.place(path)
            size = place.stop - place.start
            leaves[path] = Value(self.weights.layout.tensor(path, leaf[:, begin : begin + size]), stacked=True)
            begin += size
        parts = elements(self.advance.recomputed(self.node, self.weights, self._values(len(leaf)), leaves))
        return torch.cat([part.reshape(len(part), -1) for part in parts], 1)

    def _values(self, count: int) -> dict[fx.Node, Value]:
        known = {n: v for n, v in self.frontier.values.items() if self.frontier.states[n] is State.KNOWN}
        return {node: value.first(count) for node, value in known.items()}

    def _felt(self) -> Tensor:
        """Return which unknown entries the value depends on, by one backward pass."""
        generator = torch.Generator().manual_seed(17)
        few = self.value[: self.few]
        cotangent = torch.randn(few.shape, generator=generator, dtype=torch.float64)
        (gradient,) = torch.autograd.grad((few * cotangent).sum(), self.leaf, retain_graph=True)
        return self.free & (gradient.abs().amax(0) > 0)

    def _moved(self, entry: int) -> list[int]:
        """Return the elements of the value that one entry moves."""
        with torch.no_grad():
            base = self.leaf[: self.few].detach()
            moved = base.clone()
            moved[:, entry] += 1.0
            change = (self._run(moved) - self.value[: self.few].detach()).abs()
        size = float(change.max())
        return [] if size == 0 else (change.amax(0) > 1e-9 * size).nonzero().flatten().tolist()

    def _gradient(self, element: int) -> Tensor:
        """Return the columns of the system of one element, `samples entries`."""
        (gradient,) = torch.autograd.grad(self.value[:, element].sum(), self.leaf, retain_graph=True)
        return gradient * self.free

    def point(self, shape: tuple[int, ...]) -> Point:
        """Return the systems of the value: enough of them that each unknown entry which it reads is in one."""
        covered = ~self._felt()
        found: list[Unknown] = []
        known: dict[tuple[str, ...], Equations] = {}
        last: int | None = None
        while not bool(covered.all()):
            entry = int((~covered).nonzero()[0])
            covered[entry] = True
            moved = self._moved(entry)
            if not moved:
                continue
            element, columns = self._best(moved, last, shape)
            last = element
            size = columns.abs().amax(0)
            support = (size > 1e-10 * size.max()).nonzero().flatten()
            covered[support] = True
            columns = columns[:, support]
            rest = self.value[:, element].detach() - columns @ self.leaf[0].detach()[support]
            found.append(Unknown(element, self.entries[support], rest, self._equations(columns, known)))
        return Point(self.node, shape, tuple(found))

    def _best(self, moved: list[int], last: int | None, shape: tuple[int, ...]) -> tuple[int, Tensor]:
        """Choose the element that reads most entries: not one at the border of a map."""
        if last is not None:
            place = torch.tensor(torch.unravel_index(torch.tensor(last), shape))
            others = torch.stack(torch.unravel_index(torch.tensor(moved), shape))
            element = moved[int((others == place[:, None]).sum(0).argmax())]
            return element, self._gradient(element)
        tried = [moved[int(share * (len(moved) - 1))] for share in (0.0, 0.21, 0.4, 0.61, 1.0)]
        columns = {element: self._gradient(element) for element in dict.fromkeys(tried)}
        element = max(columns, key=lambda one: int((columns[one].abs().amax(0) > 0).sum()))
        return element, columns[element]

    def _equations(self, columns: Tensor, known: dict[tuple[str, ...], Equations]) -> Equations:
        weights = torch.linspace(1.0, 2.0, len(columns), dtype=torch.float64).sin()
        key = tuple(f"{number:.8e}" for number in (weights @ columns).tolist())
        if key not in known:
            known[key] = _factorised(columns)
        return known[key]


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
