"""Decision log: which ways the decisions of two models went, in all runs that were compared.

>>> log, site = Log(), Site("file", 1, 0, 0, by_value=True)
>>> list(log.open(by_value=True))
[]

Cost: linear in the decisions of a run, and in its inputs.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fxmap.model.restoring import let_through
from fxmap.prove.code.coverage import Coverage, Run, limited
from fxmap.prove.code.decisions import Decisions, Site

# How many inputs that are no ordinary ones are kept for each way of a decision.
_ODD = 2
# How many inputs are kept, and of how many numbers together.
_KEPT, _NUMBERS = 400, 4_000_000


@dataclass
class Log:
    """The decisions of two models in all runs that were compared.

    Attributes:
        outcomes: by place, the outcomes of the decisions there; for the source, and for the destination.
        reached: by place, the inputs that led there first.
        met: by place, inputs that led to one outcome alone, by their shapes and by the outcome.
        shown: by place, the outcomes on ordinary inputs (see `is_ordinary`); `odd` has the first others, by outcome.
        usual: the extents that ordinary inputs of the source have, by place; those of masks are left out.
        last: the decisions of both models in the last run that was compared.
        compared: what values were compared with, in the source and in the destination.
        sizes, batches, alike, reads, lengths, draws, layouts, missing: as those of `Decisions`, of any run.
        unwatched: the models, 0 or 1, that do not run while they are watched.
        refusing: the model that refused inputs last.
        refused: the model that refused the last inputs; None if neither did.
        lacking: the model that alone made no numbers of some sample of the last inputs; empty if none did.
        coverage: the ways that the code of each model went at its conditional jumps.
        ran: the ids of the code that ran in the last run in which something was turned round, in each model.
        inputs: inputs that were compared: the first ones, as far as they are of few numbers together, which `kept` counts.
    """

    outcomes: tuple[dict[Site, set[bool]], dict[Site, set[bool]]] = field(default_factory=lambda: ({}, {}))
    reached: dict[Site, Any] = field(default_factory=dict)
    met: dict[Site, dict[object, dict[bool, Any]]] = field(default_factory=dict)
    shown: dict[Site, set[bool]] = field(default_factory=dict)
    odd: dict[Site, dict[bool, list[Any]]] = field(default_factory=dict)
    usual: Mapping[int, Sequence[int]] = field(default_factory=dict)
    last: tuple[Decisions, ...] = ()
    compared: tuple[set[float], set[float]] = field(default_factory=lambda: (set(), set()))
    sizes: set[int] = field(default_factory=set)
    batches: set[int] = field(default_factory=set)
    alike: set[int] = field(default_factory=set)
    reads: bool = False
    lengths: bool = False
    draws: bool = False
    layouts: bool = False
    missing: bool = False
    unwatched: set[int] = field(default_factory=set)
    refusing: int = 0
    refused: int | None = None
    lacking: str = ""
    coverage: tuple[Coverage, Coverage] = field(default_factory=lambda: (Coverage(), Coverage()))
    covered: dict[int, Run] = field(default_factory=dict)
    ran: dict[int, set[int]] = field(default_factory=dict)
    inputs: list[Any] = field(default_factory=list)
    kept: int = 0

    def watched(
        self, which: int, run: Callable[[], Any], forced: frozenset[Site] = frozenset(), chance: float | None = None
    ) -> tuple[Any, Decisions]:
        """Run a model and watch it, if it runs then as it does otherwise."""
        seen = Decisions(forced, chance)
        if which in self.unwatched:
            return run(), seen
        try:
            with seen, self._limited(which) if forced else self._covering(which):
                return run(), seen
        except Exception as error:  # whatever a model raises: of its own, or since it cannot be watched
            let_through(error)
            if forced:
                raise
            value = run()
            self.unwatched.add(which)
            return value, Decisions()
        finally:
            self.compared[which].update(seen.numbers)
            self.sizes |= seen.sizes
            self.batches |= seen.batches
            self.alike |= seen.alike
            self.reads |= seen.reads
            self.lengths |= seen.lengths
            self.draws |= seen.draws
            self.layouts |= seen.layouts
            self.missing |= seen.missing

    @contextmanager
    def _covering(self, which: int) -> Iterator[None]:
        with self.coverage[which].watch() as self.covered[which]:
            yield

    @contextmanager
    def _limited(self, which: int) -> Iterator[None]:
        with limited() as self.ran[which]:
            yield

    def add(self, inputs: Any, shapes: object, *seen: Decisions) -> None:
        """Note the decisions of a run that was compared, on inputs of these shapes."""
        self.last = seen
        self._keep(inputs)
        for which, run in self.covered.items():
            self.coverage[which].add(run, inputs)
        ordinary = any(one.outcomes for one in seen) and is_ordinary(inputs[0].flat(), self.usual)
        for outcomes, one in zip(self.outcomes, seen, strict=True):
            for site, found in one.outcomes.items():
                outcomes.setdefault(site, set()).update(found)
                self.reached.setdefault(site, inputs)
                self._show(site, found, None if ordinary else inputs)
                if len(found) == 1:
                    self.met.setdefault(site, {}).setdefault(shapes, {}).setdefault(next(iter(found)), inputs)

    def _keep(self, inputs: Any) -> None:
        count = sum(value.numel() for value in inputs[0].flat())
        if not self.inputs or (len(self.inputs) < _KEPT and self.kept + count <= _NUMBERS):
            self.inputs.append(inputs)
            self.kept += count

    def _show(self, site: Site, found: set[bool], odd: Any) -> None:
        if odd is None:
            self.shown.setdefault(site, set()).update(found)
            return
        for way in found if len(found) == 1 else ():
            inputs = self.odd.setdefault(site, {}).setdefault(way, [])
            inputs.extend([odd] if len(inputs) < _ODD else [])

    def unshown(self) -> Iterator[tuple[Site, bool]]:
        """Yield the decisions by values of which one way was met by inputs alone that are no ordinary ones, and this way."""
        one, other = self.outcomes
        for site, ways in self.shown.items():
            if site.by_value and len(ways) == 1 and len(one.get(site, set()) | other.get(site, set())) > 1:
                yield site, not next(iter(ways))

    @property
    def numbers(self) -> set[float]:
        """What values were compared with."""
        return self.compared[0] | self.compared[1]

    def outcome(self, site: Site) -> bool | None:
        """Return which way the last run went at a place; None if both, or none."""
        found = set[bool]().union(*(seen.outcomes.get(site, ()) for seen in self.last))
        return found.pop() if len(found) == 1 else None

    @property
    def by_value(self) -> bool:
        """Whether code depends on the values of tensors otherwise than by operations."""
        return self.reads or any(site.by_value for outcomes in self.outcomes for site in outcomes)

    def open(self, *, by_value: bool) -> Iterator[Site]:
        """Yield the places of decisions that went one way in all runs."""
        one, other = self.outcomes
        for site in {**one, **other}:
            if site.by_value is by_value and len(one.get(site, set()) | other.get(site, set())) == 1:
                yield site


def is_ordinary(tensors: Sequence[Tensor], usual: Mapping[int, Sequence[int]]) -> bool:
    """Whether no input is the same along an axis, or read backwards, or has one position where ordinary ones have several.

    Masks, of which no usual extents are given, often are the same everywhere.

    >>> is_ordinary([torch.ones(2, 3)], {0: (2, 3)}), is_ordinary([torch.ones(2, 3)], {})
    (False, True)
    >>> is_ordinary([torch.arange(3)], {0: (2,)}), is_ordinary([torch.arange(1)], {0: (2,)})
    (True, False)
    >>> is_ordinary([torch.tensor([5, 7, 5])], {0: (2,)})
    False
    """
    return not any(place in usual and _is_even(tensor, usual[place]) for place, tensor in enumerate(tensors))


def _is_even(tensor: Tensor, usual: Sequence[int]) -> bool:
    if tensor.layout is not torch.strided or not tensor.numel():
        return tensor.layout is torch.strided  # one without a number is no ordinary one
    extents = usual if len(usual) == tensor.dim() else (1,) * tensor.dim()
    if any(one == 1 and other > 1 for one, other in zip(tensor.shape, extents, strict=True)):
        return True
    axes = [axis for axis, extent in enumerate(tensor.shape) if extent > 1]
    return any(bool((tensor == tensor.narrow(axis, 0, 1)).all()) or torch.equal(tensor, tensor.flip(axis)) for axis in axes)
