"""Choices: which of the source's values a value of the destination may be, and what its weights then are."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

import torch
from torch import Tensor

from fxmap.matching.solve.choosing.fitting import MULTIPLIED, TURNED, Choice, Fitting, Made, Rank, Recognised
from fxmap.matching.solve.choosing.natural import Natural
from fxmap.matching.solve.choosing.places import Places
from fxmap.matching.solve.choosing.readers import further_apart, readers
from fxmap.matching.solve.known.numbers import ABSENT, ONE, ZERO
from fxmap.matching.solve.known.source import Block, SourceValues
from fxmap.matching.solve.unknown.orders import coordinates, orders
from fxmap.matching.solve.unknown.systems import Point, Unknown
from fxmap.matching.solve.unknown.unknowns import Origin, Weights

logger = logging.getLogger(__name__)

Assignment = list[tuple[Unknown, int]]

# To look for the source's numbers among the solutions of one system costs as much as so many operations.
_RECOGNISED = 2

# What a choice takes beside that costs as much as so many.
_CHOSEN = 1


class Choices:
    """All choices at one point, the most likely first."""

    TRIED = 48
    REFINED = 600

    def __init__(self, source: SourceValues, fitting: Fitting, weights: Weights, point: Point, places: Places) -> None:
        self.source, self.fitting, self.weights, self.point, self.places = source, fitting, weights, point, places
        self.factors = places.factors
        self.natural = Natural(source, fitting.gauge, fitting.signatures, weights.layout)
        self.claimed = torch.zeros(len(source.numbers.numbers), dtype=torch.bool)
        self.claimed[weights.places[weights.places >= 0]] = True
        generator = torch.Generator().manual_seed(13)
        self.looks = torch.randn(len(weights.numbers), generator=generator, dtype=torch.float64)
        self._refined: dict[int, Tensor] = {}
        self.most = sum(len(system.entries) for system in point.systems)
        self.order = {block.node: index for index, block in enumerate(source.blocks)}

    def all(self) -> list[Choice]:
        """Return the choices, sorted."""
        known = self.fitting.choices.get(id(self.point))
        if known is None or known.table != len(self.source.numbers.names):
            made = tuple(self._choice(*one) for one in self._assignments())
            known = Made(self.point, made, len(self.source.numbers.names))
            self.fitting.choices.put(id(self.point), known, 1 + sum(3 * len(one.entries) for one in made))
        found = [replace(one, rank=self._rank(one)) for one in known.choices]
        found.sort(key=lambda one: one.rank)
        logger.debug("%s: %d choices, first rank %s", self.point.node.name, len(found), found[0].rank if found else "")
        return self._distinct(found)

    def _distinct(self, choices: list[Choice]) -> list[Choice]:
        """Leave out choices that give the same numbers as better ones, or as a part of these."""
        found: dict[str, Choice] = {}
        whole: list[Tensor] = []
        for one in choices:
            # Moved elements of one value give the same weights.
            key = f"{float(one.numbers @ self.looks[one.entries]):.8e}, {len(one.entries)}"
            if key in found or any(torch.equal(other[one.entries], one.numbers) for other in whole):
                continue
            found[key] = one
            if len(one.entries) == self.most and len(whole) < 4:
                whole.append(torch.full_like(self.weights.numbers, torch.nan).index_copy(0, one.entries, one.numbers))
        return list(found.values())

    def exact(self, block: Block) -> list[Choice]:
        """Return the choice that the point is one of the source's values, element by element: an output."""
        if block.stop - block.begin != _size(self.point.shape):
            return []
        assignment = [(system, block.begin + system.element) for system in self.point.systems]
        if any(not bool((self.fitting(system) == element).any()) for system, element in assignment):
            return []
        choice = self._choice(0, block, assignment)
        return [replace(choice, rank=self._rank(choice))]

    def _assignments(self) -> Iterator[tuple[int, Block, Assignment]]:
        classes = [part for systems in self.point.classes() for part in self._alike(systems)]
        hits = [self._hits(systems[0]) for systems in classes]
        own = readers(self.point.node)
        # A value that fits no system is none of the choices.
        met = {i for systems in classes for i in self.source.spread(self.fitting(systems[0]))}
        blocks = sorted(sorted(met), key=lambda i: not own & readers(self.source.blocks[i].node))
        count = 0
        seen: set[tuple[int, ...]] = set()
        for i in blocks:
            for made in self.places.assignments(self.point, self.source.blocks[i], self.fitting):
                if not self._again(made, seen):
                    yield -1, self.source.blocks[i], made
            if all(len(hit[i]) == len(systems) for hit, systems in zip(hits, classes, strict=True)):
                pairs = [zip(systems, hit[i], strict=True) for hit, systems in zip(hits, classes, strict=True)]
                whole = [pair for several in pairs for pair in several]
                if self._again(whole, seen):
                    continue
                yield 0, self.source.blocks[i], whole
                count += 1
                if count > self.TRIED:
                    return
        turned = (one for i in blocks for one in self._turned(i, hits, classes))
        for i, whole in islice(turned, self.TRIED):
            if not self._again(whole, seen):
                yield TURNED, self.source.blocks[i], whole
        for i in blocks:
            whole = self._most(i, hits, classes)
            if whole and not self._again(whole, seen):
                yield 1, self.source.blocks[i], whole
        for hit, systems in zip(hits, classes, strict=True):
            found = [one for one in self._of_class(systems, hit, blocks) if not self._again(one[2], seen)]
            if found:
                yield from found[: 3 * self.TRIED]
                return

    def _turned(self, i: int, hits: list[list[list[int]]], classes: list[list[Unknown]]) -> Iterator[tuple[int, Assignment]]:
        """Yield the assignments to all of one value whose axes, or the point's, are in another order."""
        block, systems = self.source.blocks[i], [system for several in classes for system in several]
        if len(classes) != 1 or len(hits[0][i]) != len(systems):
            return
        found = torch.tensor(hits[0][i])
        for order in orders(found - block.begin, block.shape):
            yield i, list(zip(systems, found[order].tolist(), strict=True))
        for order in orders(torch.tensor([system.element for system in systems]), self.point.shape):
            yield i, list(zip(systems, found[order.argsort()].tolist(), strict=True))

    @staticmethod
    def _most(i: int, hits: list[list[list[int]]], classes: list[list[Unknown]]) -> Assignment:
        """Return the assignment of the classes that one value has all elements of, if these are most of several."""
        both = [(hit[i], systems) for hit, systems in zip(hits, classes, strict=True) if len(hit[i]) == len(systems)]
        return (
            [pair for hit, systems in both for pair in zip(systems, hit, strict=True)]
            if len(both) > len(classes) / 2
            else []
        )

    def _again(self, assignment: Assignment, seen: set[tuple[int, ...]]) -> bool:
        """Whether an assignment has the same values as one before, whose elements were only moved."""
        kinds = self.source.prints.classes[torch.tensor([element for _, element in assignment])]
        key = (assignment[0][0].element, *kinds.tolist())
        if key in seen:
            return True
        seen.add(key)
        return False

    def _fits(self, system: Unknown) -> Tensor:
        """Return the elements of the source that fit a system, also by what the source multiplies its own numbers by.

        Where a system has many solutions, most values fit it. Those count of which one solution has the source's numbers.
        """
        fitting = self.fitting(system)
        if not system.equations.dependent or not 1 < len(fitting) <= self.REFINED:
            return fitting
        key = id(fitting)
        if key not in self._refined:
            kinds = self.source.prints.classes[fitting]
            natural = {}
            for element, kind in zip(fitting.tolist(), kinds.tolist(), strict=True):
                if kind not in natural:
                    natural[kind] = self.natural.signed(system, element) is not None
            keep = torch.tensor([natural[kind] for kind in kinds.tolist()])
            self._refined[key] = fitting[keep] if bool(keep.any()) else fitting
        return self._refined[key]

    def _alike(self, systems: list[Unknown]) -> list[list[Unknown]]:
        """Split the systems of one factorisation into those that the same values of the source fit."""
        found: dict[int, list[Unknown]] = {}
        for system in systems:
            found.setdefault(id(self._fits(system)), []).append(system)
        return list(found.values())

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
        places = coordinates(torch.tensor([one.element for one in systems]), self.point.shape)
        for axis in range(len(places)):
            same = (places[axis] == places[axis, 0]).nonzero().flatten().tolist()
            part = [systems[index] for index in same]
            if len(part) == size and part not in parts:
                parts.append(part)
        return parts

    def _hits(self, system: Unknown) -> list[list[int]]:
        """Return the different elements of each of the source's values that fit a system, in order.

        At the border of a map, an element is made of a part of what its neighbour is made of: those that need most count.
        """
        found: list[list[int]] = [[] for _ in self.source.blocks]
        for index, every in self.source.spread(self._fits(system)).items():
            inside = every
            if len(inside) > 1:
                solved = (system.equations.inverse @ (self.source.columns[:, inside] - system.rest[:, None])).abs()
                needed = (solved > 1e-9 * solved.amax(0)).sum(0)
                inside = inside[needed == needed.max()]
            kinds = self.source.prints.classes[inside].tolist()
            first: dict[int, int] = {}
            for element, kind in zip(inside.tolist(), kinds, strict=True):
                first.setdefault(kind, element)
            found[index] = sorted(first.values())
        return found

    def _solved(self, assignment: Assignment) -> tuple[list[Tensor], list[Tensor]]:
        """Return the solution of each system, and its places among the numbers; of one factorisation all at once."""
        groups: dict[int, list[int]] = {}
        for index, (system, _) in enumerate(assignment):
            groups.setdefault(id(system.equations), []).append(index)
        numbers, places = ([torch.empty(0)] * len(assignment) for _ in range(2))
        for members in groups.values():
            systems, found = zip(*(assignment[index] for index in members), strict=True)
            wanted = self.source.columns[:, list(found)] - torch.stack([system.rest for system in systems], 1)
            solved = systems[0].equations.inverse @ wanted
            where = self.source.numbers.find(solved, scale=solved.abs().amax(0))
            for index, one, place in zip(members, solved.T, where.T, strict=True):
                numbers[index], places[index] = one, place
        return numbers, places

    def _recognised(self, system: Unknown, element: int, solved: Tensor) -> Recognised:
        """Look for a solution with the source's numbers, once for each system and element while there are no new ones."""
        known = self.fitting.recognised.get((id(system), element))
        if known is None or known.table != len(self.source.numbers.names):
            self.fitting.effort.spend(runs=_RECOGNISED)
            solved = self.natural.solution(system, element, solved)
            self.source.numbers.add_multiples(solved, self.factors)
            places, origin = self.source.numbers.find(solved), None
            if bool((places == ABSENT).any()):
                # Without what is added to it, such as the input beside a branch, it may be a value of its own.
                alone = self.source.prints.find(self.source.columns[:, element] - system.rest)
                origin = Origin(system.entries, system.equations.columns, element if alone is None else alone)
            known = Recognised(solved, places, origin, len(self.source.numbers.names))
            self.fitting.recognised.put((id(system), element), known, 2 * len(solved) + len(system.rest))
        return known

    def _rank(self, choice: Choice) -> Rank:
        """Return the rank of a choice, which is worse where another value has some of the same numbers of the source."""
        places = choice.places[:: max(1, len(choice.places) // 16)]
        old = places[(places >= 0) & (places < len(self.claimed))]  # what was added since is nobody's
        return *choice.rank[:3], float(self.claimed[old].any()), *choice.rank[4:]

    def _choice(self, penalty: int, block: Block, assignment: Assignment) -> Choice:
        self.fitting.effort.spend(runs=_CHOSEN)
        numbers, places = self._solved(assignment)
        origins = []
        for index, (system, element) in enumerate(assignment):
            if bool((places[index] == ABSENT).any()):
                made = self._recognised(system, element, numbers[index])
                numbers[index], places[index] = made.numbers, made.places
                origins += [] if made.origin is None else [made.origin]
        entries = [system.entries for system, _ in assignment]
        where = torch.cat(places)
        trivial = bool(((where == ZERO) | (where == ONE)).all())
        recognised = not origins and not trivial
        unlike = self.places.unlike(self.point.node, assignment, block)
        empty = bool((where == ZERO).any())
        rank = (
            (MULTIPLIED if self.source.numbers.multiplied(where) else 0.0) if recognised else 1.0 if not trivial else 2.0,
            float(empty),
            float(unlike),
            0.0,  # see `_rank`
            float(penalty),
            further_apart(self.point.node, block.node),
            0.0 if block.shape == self.point.shape else 1.0,
            float(self.order[block.node]),
        )
        what = f"{self.point.node.name} is {block.node.name}"
        doubtful = not recognised or (empty and unlike)
        return Choice(torch.cat(entries), torch.cat(numbers), where, tuple(origins), rank, not doubtful, what)


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for extent in shape:
        size *= extent
    return size
