"""Unknowns: the weights of the destination as one long vector, of which some numbers are known."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor

from fxmap.capture.captured import Captured
from fxmap.run.randomize import in_double


@dataclass(frozen=True)
class Layout:
    """Where each weight of the destination begins in the vector of all; `fixed` are the tensors that stay as they are.

    `read` is the order in which the graph reads them.
    """

    shapes: Mapping[str, tuple[int, ...]]
    begins: Mapping[str, int]
    fixed: Mapping[str, Tensor]
    complex_: frozenset[str]
    canonical: Mapping[str, str]
    read: Mapping[str, int]
    kept: "deque[Weights]" = field(default_factory=deque, compare=False, repr=False)

    @classmethod
    def of(cls, captured: Captured, unknown: Mapping[str, Tensor]) -> "Layout":
        """Lay out the `unknown` tensors, by canonical path; of complex ones both parts are unknown."""
        shapes, begins, begin = {}, {}, 0
        for path, tensor in unknown.items():
            shapes[path] = (*tensor.shape, 2) if tensor.is_complex() else tuple(tensor.shape)
            begins[path] = begin
            begin += prod(shapes[path])
        fixed = {
            path: tensor.detach() for path, tensor in captured.tensors.items() if captured.canonical[path] not in shapes
        }
        fixed = {path: in_double(tensor) for path, tensor in fixed.items()}
        names = captured.canonical
        order = dict.fromkeys(names[str(node.target)] for node in captured.graph.nodes if str(node.target) in names)
        read = {path: index for index, path in enumerate([*order, *(path for path in shapes if path not in order)])}
        complex_ = frozenset(path for path, tensor in unknown.items() if tensor.is_complex())
        return cls(shapes, begins, fixed, complex_, names, read)

    @property
    def size(self) -> int:
        """The number of unknown numbers."""
        return sum(prod(shape) for shape in self.shapes.values())

    def place(self, path: str) -> slice:
        """Return the place of a weight in the vector."""
        begin = self.begins[path]
        return slice(begin, begin + prod(self.shapes[path]))

    def sizes(self, one: int, other: int) -> tuple[int, int]:
        """Return how many numbers the weights have that two numbers belong to."""
        found = []
        for entry in (one, other):
            path = next(path for path in self.shapes if self.place(path).start <= entry < self.place(path).stop)
            found.append(prod(self.shapes[path]))
        return found[0], found[1]

    def tensor(self, path: str, numbers: Tensor) -> Tensor:
        """Return a weight from its numbers, `... n`."""
        value = numbers.reshape((*numbers.shape[:-1], *self.shapes[path]))
        return torch.view_as_complex(value.contiguous()) if path in self.complex_ else value


@dataclass(frozen=True)
class Origin:
    """Where numbers come from that are no numbers of the source: the system that they solve.

    `entries` are their places in the vector, `columns` the values that they are multiplied by, `samples entries`, and
    `element` the source's value that the sum must be.
    """

    entries: Tensor
    columns: Tensor
    element: int


Vectors = tuple[Tensor, Tensor, Tensor]

# So many numbers of vectors are kept, and two vectors at least.
_KEPT = 4_000_000


class Weights:
    """The numbers found so far, step by step: `numbers`, whether each is `known`, and the `places` in the source's table.

    A search holds as many of these as it is steps deep. So each has the numbers of its own step alone, and the vectors of
    all are made when they are asked for; those of the last few are kept.
    """

    def __init__(
        self, layout: Layout, before: "Weights | None", step: Vectors | None, origins: tuple[Origin, ...] = ()
    ) -> None:
        self.layout, self.origins = layout, origins
        self._before, self._step = before, step
        self._vectors: Vectors | None = None

    @classmethod
    def none(cls, layout: Layout) -> "Weights":
        """Return weights of which nothing is known."""
        return cls(layout, None, None)

    def having(self, entries: Tensor, numbers: Tensor, places: Tensor, origins: tuple[Origin, ...] = ()) -> "Weights":
        """Return the weights with some more numbers known."""
        return Weights(self.layout, self, (entries, numbers, places), (*self.origins, *origins))

    @property
    def numbers(self) -> Tensor:
        """The numbers, 0 where they are not known."""
        return self._whole()[0]

    @property
    def known(self) -> Tensor:
        """Whether each number is known."""
        return self._whole()[1]

    @property
    def places(self) -> Tensor:
        """The place of each number in the source's table; -1 where it is not known, or none of the source's."""
        return self._whole()[2]

    def _whole(self) -> Vectors:
        if self._vectors is None:
            self._vectors = self._made()
            kept = self.layout.kept
            kept.append(self)
            while len(kept) > max(2, _KEPT // max(self.layout.size, 1)):
                kept.popleft()._vectors = None
        return self._vectors

    def _made(self) -> Vectors:
        """Make the vectors from those of the nearest step before that has them."""
        steps: list[Vectors] = []
        at: Weights | None = self
        while at is not None and at._vectors is None:
            steps += [] if at._step is None else [at._step]
            at = at._before
        if at is None or at._vectors is None:
            size = self.layout.size
            numbers, known = torch.zeros(size).double(), torch.zeros(size, dtype=torch.bool)
            places = torch.full((size,), -1)
        else:
            numbers, known, places = (vector.clone() for vector in at._vectors)
        for entries, found, where in reversed(steps):
            numbers[entries], known[entries], places[entries] = found, True, where
        return numbers, known, places

    def unknown(self, path: str) -> bool:
        """Whether some number of a weight is not known."""
        return not bool(self.known[self.layout.place(path)].all())

    def extends(self, before: "Weights", places: Tensor) -> bool:
        """Whether all that was known before in some places is known, with the same numbers."""
        known = before.known[places]
        same = self.known[places] & (self.numbers[places] == before.numbers[places])
        return bool((same | ~known).all())

    def changed(self, before: "Weights") -> frozenset[str]:
        """Return the weights of which something is known that was not known before."""
        places = {path: self.layout.place(path) for path in self.layout.shapes}
        return frozenset(path for path, place in places.items() if not torch.equal(self.known[place], before.known[place]))

    def print(self) -> str:
        """Return a text that is the same for the same numbers in the same places."""
        known = self.known.nonzero().flatten()
        looks = torch.stack([((known + 1).double() * step).sin() for step in (0.7, 1.3)])
        sums = looks @ self.numbers[known]
        return f"{len(known)} {float(looks.sum()):.9e} " + " ".join(f"{float(one):.8e}" for one in sums)
