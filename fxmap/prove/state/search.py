"""Search: which of some tensors move the outputs of a model, if they have other values.

All are changed at once first, then halves of them. They are changed on the inputs that were compared, on special ones, and
with gates opened that no value of a run reached.

Cost: some runs where none of m tensors moves anything, and times log m for each that does.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import islice

import torch
from torch import Tensor

from fxmap.model.recall import up_to_rounding
from fxmap.model.restoring import let_through
from fxmap.model.tensors import Named
from fxmap.prove.audits.audit import Audit
from fxmap.prove.audits.opened import Run, opened_runs
from fxmap.prove.audits.smallest import smallest
from fxmap.prove.inputs.budget import Budget
from fxmap.prove.inputs.samples import Both
from fxmap.prove.inputs.special import specials
from fxmap.prove.runs.passes import Passes
from fxmap.prove.state.changed import Changed, by_halves, changed_values, is_moved

# Runs a model with tensors, by path, on one of the samples.
Outputs = Callable[[Mapping[str, Tensor], Both], Named]
# How many special samples are tried with changed tensors.
_SPECIAL = 200
# On how many samples gates are opened, and how many of them; where a run takes long, on one, and fewer.
_SAMPLES, _GATES, _FEW_GATES = 2, 12, 2


@dataclass(frozen=True)
class Search:
    """A search for tensors that move outputs; `passes` counts its runs, and `budget` says how many there may be."""

    passes: Passes
    budget: Budget

    @torch.no_grad()
    def special(self, found: Audit, outputs: Callable[[Both], Named]) -> Iterator[tuple[Both, Named]]:
        """Yield special samples with their outputs, and those of other manners and sizes: a key may move these alone."""
        if found.sampler is None or not found.samples or not self.budget.always:
            return
        special = islice(specials(found.sampler, smallest(found, 3), found.numbers), _SPECIAL)
        for sample in (*(sample for _, sample in special), *found.tried):
            try:
                yield sample, outputs(sample)
            except Exception as error:  # whatever a model raises on what it does not accept
                let_through(error)

    @torch.no_grad()
    def behind(self, paths: list[str], own: Mapping[str, Tensor], samples: Sequence[Both], outputs: Outputs) -> list[str]:
        """Return the tensors that move the outputs where a gate is opened that no value reached."""
        moving, thrifty = list[str](), self.budget.thrifty
        chosen = samples[: 1 if thrifty else _SAMPLES] if paths else ()
        for run, sample in opened_runs(chosen, partial(outputs, own), _FEW_GATES if thrifty else _GATES):

            def opened(tensors: Mapping[str, Tensor], sample: Both, run: Run = run) -> Named:
                return run(partial(outputs, tensors, sample))

            rest = [path for path in paths if path not in moving]
            moving += self.found(rest, own, [(sample, opened(own, sample))], opened)
        return moving

    def _changes(self, own: Mapping[str, Tensor], some: list[str], place: int, count: int) -> Iterable[Changed]:
        """Return the changes that are tried on one of several samples.

        Large ones are for decisions (an argmax, a rounding), and a small sample has these as well. Where a run takes long,
        each change is tried on one sample: all but the first on the smallest one.
        """
        changes = changed_values(own, some, odd=not place, several=not self.budget.thrifty)
        if place:
            return islice(changes, 1)
        return islice(changes, 1, None) if self.budget.thrifty and count > 1 else changes

    def found(
        self,
        paths: list[str],
        own: Mapping[str, Tensor],
        before: Iterable[tuple[Both, Named]],
        outputs: Outputs,
    ) -> list[str]:
        """Return the tensors that move a model's outputs; all are changed at once first, then halves of them.

        `before` are samples with the outputs for the tensors as they are.
        """
        if not paths:
            return []
        before = list(before)

        def moves(some: list[str]) -> bool:
            for place, (sample, expected) in enumerate(before):
                for change in self._changes(own, some, place, len(before)):
                    self.passes.add()
                    try:
                        moved = outputs({**own, **change.tensors}, sample)
                    except Exception as error:  # an index out of range: the tensor is read
                        let_through(error)
                        return True
                    if is_moved(expected, moved, change):
                        return True
            return False

        # Where a run takes long, what is the same again up to rounding, behind changed tensors, is not run again.
        with torch.no_grad(), up_to_rounding() if self.budget.thrifty else nullcontext():
            return by_halves(paths, moves)
