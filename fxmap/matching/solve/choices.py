"""Choices: which of the source's values a value of the destination may be, and what its weights then are."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fxmap.matching.solve.numbers import ABSENT, ONE, ZERO
from fxmap.matching.solve.readers import readers
from fxmap.matching.solve.source import Block, SourceValues
from fxmap.matching.solve.systems import Equations, Point, Unknown
from fxmap.matching.solve.unknowns import Origin, Weights

Rank = tuple[float, ...]
Assignment = list[tuple[Unknown, int]]

_FITS = 1e-7


@dataclass(frozen=True)
class Choice:
    """Weights that some values of the source give; of better choices, `rank` is smaller.

    `recognised` says that all numbers are the source's.
    """

    weights: Weights
    rank: Rank
    recognised: bool
    what: str


class Fitting:
    """Finds the source's values that lie in the range of a system."""

    def __init__(self, source: SourceValues) -> None:
        self.source = source
        self._found: dict[tuple[int, str], Tensor] = {}

    def __call__(self, system: Unknown) -> Tensor:
        """Return the elements of the source's values that some weights give, in ascending order."""
        equations, rest = system.equations, system.rest
        key = (id(equations), f"{float(rest.abs().sum()):.9e}")
        if key not in self._found:
            self._found[key] = self._fitting(equations, rest)
        return self._found[key]

    def _fitting(self, equations: Equations, rest: Tensor) -> Tensor:
        source = self.source
        if not equations.overdetermined or not source.columns.shape[1]:
            return torch.zeros(0, dtype=torch.long)
        basis = equations.basis
        generator = torch.Generator().manual_seed(11)
        looks = torch.randn(3, len(basis), generator=generator, dtype=torch.float64)
        looks = looks - (looks @ basis) @ basis.T
        firsts = source.prints.firsts
        seen = looks @ source.columns[:, firsts] - (looks @ rest)[:, None]
        scale = (source.norms[firsts] + rest.norm()) * looks.norm(dim=1).mean()
        near = firsts[(seen.abs().amax(0) <= _FITS * scale) & source.varies[firsts]]
        wanted = source.columns[:, near] - rest[:, None]
        left = wanted - basis @ (basis.T @ wanted)
        near = near[left.abs().amax(0) <= _FITS * 1e-1 * wanted.abs().amax(0).clamp_min(1e-30)]
        classes = torch.zeros(len(firsts), dtype=torch.bool)
        classes[source.prints.classes[near]] = True
        return classes[source.prints.classes].nonzero().flatten()


class Choices:
    """All choices at one point, the most likely first."""

    TRIED = 48

    def __init__(self, source: SourceValues, fitting: Fitting, weights: Weights, point: Point) -> None:
        self.source, self.fitting, self.weights, self.point = source, fitting, weights, point
        self.claimed = set(weights.places[weights.places >= 0].tolist())
        self.order = {block.node: index for index, block in enumerate(source.blocks)}

    def all(self) -> list[Choice]:
        """Return the choices, sorted."""
        found = []
        for penalty, block, assignment in self._assignments():
            choice = self._choice(assignment, penalty, block)
            if choice is not None:
                found.append(choice)
        found.sort(key=lambda one: one.rank)
        return found

    def exact(self, block: Block) -> list[Choice]:
        """Return the choice that the point is one of the source's values, element by element: an output."""
        if block.stop - block.begin != _size(self.point.shape):
            return []
        assignment = [(system, block.begin + system.element) for system in self.point.systems]
        if any(not bool((self.fitting(system) == element).any()) for system, element in assignment):
            return []
        choice = self._choice(assignment, 0, block)
        return [] if choice is None else [choice]

    def _assignments(self) -> Iterator[tuple[int, Block, Assignment]]:
        classes = self.point.classes()
        hits = [[self._in(block, systems) for block in self.source.blocks] for systems in classes]
        own = readers(self.point.node)
        blocks = sorted(range(len(self.source.blocks)), key=lambda i: not own & readers(self.source.blocks[i].node))
        count = 0
        for i in blocks:
            block = self.source.blocks[i]
            if all(len(hit[i]) == len(systems) for hit, systems in zip(hits, classes, strict=True)):
                pairs = [zip(systems, hit[i], strict=True) for hit, systems in zip(hits, classes, strict=True)]
                yield 0, block, [pair for several in pairs for pair in several]
                count += 1
                if count > self.TRIED:
                    return
        for hit, systems in zip(hits, classes, strict=True):
            found = list(self._of_class(systems, hit, blocks))
            if found:
                yield from found[: 3 * self.TRIED]
                return

    def _of_class(
        self, systems: list[Unknown], hits: Sequence[list[int]], blocks: list[int]
    ) -> Iterator[tuple[int, Block, Assignment]]:
        """Yield assignments of the systems of one class: to whole values, to a part of one, or of some of them alone."""
        groups = len(systems)
        for i in blocks:
            block, found = self.source.blocks[i], hits[i]
            if not found:
                continue
            if len(found) == groups:
                yield 1, block, list(zip(systems, found, strict=True))
            elif len(found) > groups:
                if len(found) % groups == 0:
                    step = len(found) // groups
                    for start in range(min(step, 16)):
                        yield 2, block, list(zip(systems, found[start * groups : (start + 1) * groups], strict=True))
                    for start in range(min(step, 16) if groups > 1 else 0):
                        yield 3, block, list(zip(systems, found[start::step], strict=True))
            else:
                for part in self._parts(systems, len(found)):
                    yield 2, block, list(zip(part, found, strict=True))

    def _parts(self, systems: list[Unknown], size: int) -> list[list[Unknown]]:
        """Return subsets of so many systems, from the first on: neighbours, or those with one coordinate in common."""
        parts = [systems[:size]]
        places = torch.stack(torch.unravel_index(torch.tensor([one.element for one in systems]), self.point.shape))
        for axis in range(len(places)):
            same = (places[axis] == places[axis, 0]).nonzero().flatten().tolist()
            part = [systems[index] for index in same]
            if len(part) == size and part not in parts:
                parts.append(part)
        return parts

    def _in(self, block: Block, systems: list[Unknown]) -> list[int]:
        """Return the different elements of a source value that fit a class of systems, in order."""
        fitting = self.fitting(systems[0])
        inside = fitting[(fitting >= block.begin) & (fitting < block.stop)]
        kinds = self.source.prints.classes[inside].tolist()
        first: dict[int, int] = {}
        for element, kind in zip(inside.tolist(), kinds, strict=True):
            first.setdefault(kind, element)
        return sorted(first.values())

    def _choice(self, assignment: Assignment, penalty: int, block: Block) -> Choice | None:
        entries, numbers, places, origins = [], [], [], []
        for system, element in assignment:
            wanted = self.source.columns[:, element] - system.rest
            solved = system.equations.inverse @ wanted
            found = self.source.numbers.find(solved)
            if bool((found == ABSENT).any()):
                origins.append(Origin(system.entries, system.equations.columns, element))
            entries.append(system.entries)
            numbers.append(solved)
            places.append(found)
        where = torch.cat(places)
        weights = self.weights.having(torch.cat(entries), torch.cat(numbers), where, tuple(origins))
        trivial = bool(((where == ZERO) | (where == ONE)).all())
        recognised = not origins and not trivial
        own = readers(self.point.node)
        claimed = sum(place in self.claimed for place in where[:: max(1, len(where) // 16)].tolist())
        rank = (
            0.0 if recognised else 1.0 if not trivial else 2.0,
            0.0 if own & readers(block.node) else 1.0,
            float(claimed > 0),
            float(penalty),
            0.0 if block.shape == self.point.shape else 1.0,
            float(self.order[block.node]),
        )
        return Choice(weights, rank, recognised, f"{self.point.node.name} is {block.node.name}")


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for extent in shape:
        size *= extent
    return size
