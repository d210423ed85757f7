"""Further runs of an audit: special values, other manners of calling, more sizes, and decisions turned round.

Random draws in other sizes have shown no difference. What they do not meet is sought here, as far as the code of the models
gives reason to: special values where values decide, more sizes where sizes decide. A decision by values that went one way
in all runs is forced to go the other way; where the models differ then, the other way was not shown.

>>> from fxmap.model.inputs import as_inputs
>>> from fxmap.prove.audits.audit import Auditor
>>> auditor = Auditor(lambda i: i.args[0], lambda i: i.args[0] * (2 if bool((i.args[0] == 1).all()) else 1), 1e-9)
>>> sampler = Sampler.of((as_inputs(torch.zeros(2, 3, dtype=torch.float64)),) * 2, ({}, {}))
>>> further(auditor, auditor.audit(sampler)).refuted
'3x10 (argument 0 all 1)'

Cost: bounded by the number of runs, on inputs no larger than a small draw.
Source: as in `decisions`, `special` and `manners`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import islice
from math import ceil, isinf, prod
from typing import Any

import torch
from torch import Tensor

from fxmap.model.inputs import Inputs
from fxmap.model.restoring import let_through
from fxmap.model.tensors import named_outputs
from fxmap.prove.audits.asked_for import asked_for
from fxmap.prove.audits.audit import Audit, Auditor, describe, quiet
from fxmap.prove.audits.between import gaps, single, turns
from fxmap.prove.audits.decisive import decisive_shapes
from fxmap.prove.audits.forced import forced
from fxmap.prove.audits.kept import MANY, keeps, numbers
from fxmap.prove.audits.rows import by_rows
from fxmap.prove.audits.smallest import smallest
from fxmap.prove.audits.untaken import without_untaken
from fxmap.prove.calls.crossed import Named, crossed, factors_of
from fxmap.prove.calls.held_names import NOTHING, HeldNames
from fxmap.prove.calls.interface import Signatures, absent
from fxmap.prove.calls.manners import SEED, manners
from fxmap.prove.calls.option import Option
from fxmap.prove.calls.together import combined
from fxmap.prove.code.decisions import Site
from fxmap.prove.inputs.budget import FULL, Budget
from fxmap.prove.inputs.missing import missing
from fxmap.prove.inputs.partly import partly
from fxmap.prove.inputs.samples import Both, Sampler, common_batch
from fxmap.prove.inputs.shapes import EXTENTS, Shape, more_shapes
from fxmap.prove.inputs.special import anywhere, ladder, specials

# The shortest sequences of special values.
_LEAST = 5
# The least that chance gives, and next to the most.
_ENDS = (0.0, 1 - 1e-9)
# Lengths between which decisions by sizes are followed to where they turn.
_LADDER = (1, 9, 21, 40, 64, 101, 150, 256, 380, 513, 800, 1030)
# The longest sequence of the least budget: the logits of more tokens take more memory than a layer.
_FEW = 32


def further(
    auditor: Auditor,
    found: Audit,
    *,
    budget: Budget = FULL,
    signatures: Signatures = (None, None),
    held: HeldNames = NOTHING,
    sized: bool = False,
    fast: bool = False,
) -> Audit:
    """Compare two models further, up to the first difference.

    Args:
        auditor: the two models.
        found: the results of the draws in other sizes.
        budget: how much may run.
        signatures: those of the two models' forwards, if what the example leaves out may be tried.
        held: what the models hold.
        sized: keep the spatial size of maps.
        fast: whether torch may run layers of the models by other code where nobody watches.
    """
    if found.refuted or found.unpaired or not found.samples or found.sampler is None:
        return found
    runs = _Runs(auditor, found.sampler, budget, held, frozenset(auditor.log.reached))
    steps: tuple[Callable[[Audit], Audit], ...] = (
        lambda found: runs.manners(found, signatures),
        lambda found: runs.unwatched(found) if fast else found,
        runs.chance,
        runs.anywhere,
        runs.values,
        lambda found: found if sized else runs.sizes(found),
        lambda found: found if sized else runs.lengths(found),
        runs.turns,
        runs.crossed,
        runs.ordinary,
        lambda found: forced(auditor, found, unshown=bool(budget.turns)),
        lambda found: found if found.untaken else without_untaken(auditor, found, budget.turned),
    )
    for step in steps:
        if not found.refuted:
            found = step(found)
    return replace(found, numbers=tuple(sorted(auditor.log.numbers, key=abs)))


@dataclass(frozen=True)
class _Runs:
    """The further runs of one audit. `drawn` are the decisions that drawn inputs reach."""

    auditor: Auditor
    sampler: Sampler
    budget: Budget
    held: HeldNames
    drawn: frozenset[Site] = frozenset()
    # Whether the source runs on a shape: some models take the batch of the example alone.
    runs: dict[str, bool] = field(default_factory=dict)
    # The options that both models accept by themselves.
    options: list[Option] = field(default_factory=list)

    def small(self, found: Audit, batch: int) -> Shape:
        """Return the smallest shape that both models have accepted, in another batch and without scales.

        Where the source takes no other batch, it is that of the example.
        """
        shape = smallest(found, batch, least=_LEAST) if self.budget == FULL else smallest(found, 2)
        if self.budget.thrifty and self._is_large(shape):
            shape = replace(shape, batch=1)
        known = str(shape)
        if known not in self.runs:
            accepted = any(replace(one, scales=(), form="", padded=False) == shape for one in found.accepted)
            self.runs[known] = accepted or self._accepts(self.auditor.src, self.sampler.draw(shape, SEED)[0])
        return shape if self.runs[known] else replace(shape, batch=None)

    def _is_large(self, shape: Shape) -> bool:
        return max(map(_count, self.sampler.values(shape, SEED)), default=0) > EXTENTS.large

    def manners(self, found: Audit, signatures: Signatures) -> Audit:
        """Call both models in other manners."""
        shape = self.small(found, 3)
        thrifty = self.budget.thrifty
        outputs = cache(lambda: self._outputs(self.sampler.draw(shape, SEED)))
        before, alone = len(found.special), False
        one_sided, settled, given = dict[str, None](), set[str](), set[str]()
        values = lambda: [value for _, value in outputs()]  # noqa: E731 -- used once
        for manner in manners(self.sampler, shape, signatures, values, self.held, self._larger(found)):
            if thrifty and ((manner.layout and not self.auditor.log.layouts) or manner.dear):
                continue
            if (manner.alone and alone) or (
                manner.rows is not None and not by_rows(self._outputs, *manner.rows, self.auditor.tolerance)
            ):
                continue
            named = {name for name, _ in outputs()} if manner.optional else None
            keep = min(self.budget.manners // 2, self._kept)
            tried = self._tried(
                found, manner.text, manner.both, keep=keep, gradients=manner.gradients, named=named, lenient=manner.lenient
            )
            alone |= tried is not found
            option = manner.option
            if option is not None and tried is not found:
                given.add(option.given)
                settled.add(option.left_out)
                self.options.append(option)
            elif (
                option is not None
                and option.left_out
                and self._accepts(self.auditor.src, manner.both[0]) != self._accepts(self.auditor.dst, manner.both[1])
            ):
                one_sided[option.left_out] = None
            found = tried
            if found.refuted or len(found.special) - before >= self.budget.manners:
                break
        found = self._together(found, self.options, self.sampler.draw(shape, SEED), {name for name, _ in outputs()})
        found = replace(
            found,
            ungiven=tuple(name for name in absent(self.sampler.both, signatures) if name not in given),
            # Where no argument is a tensor, these are all that can vary.
            fixed=found.fixed if self.sampler.slots else tuple(name for name in found.fixed if name not in given),
        )
        unknown = [name for name in one_sided if name not in settled]
        return replace(found, unlike=", ".join(unknown)) if unknown and not found.refuted else found

    def _together(self, found: Audit, accepted: Sequence[Option], both: Both, named: set[str]) -> Audit:
        """Run options in combination, and calls after calls with options, of which each agrees by itself."""
        result = [found]

        def run(text: str, inputs: Both) -> bool:
            before, result[0] = result[0], self._tried(result[0], text, inputs, named=named)
            return result[0] is not before

        for _ in combined(accepted, both, run, self.budget.plenty) if not found.refuted else ():
            if result[0].refuted:
                break
        return result[0]

    def _larger(self, found: Audit) -> list[Both]:
        """Return the accepted inputs of the largest batch, and those with the largest sample, if the models are small."""
        accepted = [both for both in found.samples if numbers(both) <= MANY]
        if self.budget != FULL or not accepted:
            return []
        keys: tuple[Callable[[Both], int], ...] = (
            lambda both: common_batch(both[0].flat()) or 0, lambda both: sum(map(_count, both[0].flat())),
        )  # fmt: skip
        return list({id(both): both for both in (max(accepted, key=key) for key in keys)}.values())

    @torch.no_grad()
    def _accepts(self, call: Callable[[Inputs], Any], inputs: Inputs) -> bool:
        try:
            call(inputs)
        except Exception as error:  # whatever a model raises on a tensor that does not fit it
            let_through(error)
            return False
        return True

    @torch.no_grad()
    def _outputs(self, both: Both) -> list[tuple[str, Tensor]]:
        try:
            return named_outputs(self.auditor.src(both[0]))
        except Exception as error:  # whatever a model raises on so few samples
            let_through(error)
            return []

    def unwatched(self, found: Audit) -> Audit:
        """Run without gradients and without watching: torch has fast paths for such calls."""
        return self._tried(found, "on torch's fast paths", self.sampler.draw(self.small(found, 3), SEED), watched=False)

    def chance(self, found: Audit) -> Audit:
        """Run with chance at its ends, where code draws numbers: what is rare under one seed is not met otherwise."""
        for end in _ENDS if self.auditor.log.draws else ():
            if not found.refuted:
                inputs = self.sampler.draw(self.small(found, 3), SEED)
                found = self._tried(found, f"where what is drawn is {end:.3g}", inputs, chance=end)
        return found

    def anywhere(self, found: Audit) -> Audit:
        """Run inputs that are 0, or below 0, whatever the code decides; where one model has no value, nothing is said."""
        shape = self.small(found, 3)
        few = anywhere(self.sampler, shape)
        lost = missing(self.sampler, shape) if self.auditor.log.missing else ()
        return self._all_of(found, (*(islice(few, 2) if self.budget.thrifty else few), *lost), with_values=True)

    def values(self, found: Audit) -> Audit:
        """Run special values, where the code of a model decides by values."""
        log = self.auditor.log
        reached = [site for site in log.open(by_value=True) if not self.budget.thrifty or site in self.drawn]
        if not (log.reads or reached or (log.by_value and self.budget == FULL)):
            return found
        shape = self.small(found, 3)
        numbers = list(dict.fromkeys((*sorted(log.numbers, key=abs), *self.held.numbers)))
        if log.reads and self.budget == FULL:
            found = self._ladder(found, shape)
        if found.refuted:
            return found
        special = specials(self.sampler, shape, numbers, self.held.sequences)
        return self._all_of(found, islice(special, self.budget.values))

    def _ladder(self, found: Audit, shape: Shape) -> Audit:
        """Run inputs on a ladder of scales, and partly special ones: what code makes of lists and arrays is not seen."""
        return self._all_of(found, (*partly(self.sampler, shape), *ladder(self.sampler, shape)))

    def _all_of(self, found: Audit, runs: Iterable[tuple[str, Both]], *, with_values: bool = False) -> Audit:
        """Run inputs up to the first difference; `with_values`: samples count of which both models make numbers."""
        for text, both in runs:
            tried = self._tried(found, text, both, lenient=with_values, keep=self._kept * with_values)
            found = found if with_values and tried.error == float("inf") else tried
            if found.refuted:
                break
        return found

    def sizes(self, found: Audit) -> Audit:
        """Run more sizes, where the code of a model decides by sizes and went one way."""
        examples = [slot.example for slot in self.sampler.slots]
        if not examples:
            return found
        sizes = sorted({ceil(number) for number in self.auditor.log.sizes})
        numbers = [*sizes, *(limit for limit in self.held.limits if limit not in sizes)] if self.budget.always else sizes
        shapes = more_shapes(
            examples, numbers, found.accepted, 4 * self.budget.longest if self.budget.always else self.budget.longest or _FEW
        )
        if self.budget.thrifty:
            found = self._decisive(found, examples)
            # Of large samples no more than two are run at once, and these have been.
            shapes = (shape for shape in shapes if shape.sizes or shape.axes or shape.spatial or not self._is_large(shape))
            few = smallest(found, 1)
            shapes = (replace(few, batch=shape.batch) if shape == Shape(shape.batch) else shape for shape in shapes)
        for seed, shape in enumerate(islice(shapes, self.budget.sizes if not found.refuted else 0)):
            if seed >= self.budget.always and not (self.auditor.log.lengths or any(self.auditor.log.open(by_value=False))):
                break
            inputs = self.sampler.draw(shape, seed)
            found = self._tried(found, "another size", inputs, keep=self._kept)
            if found.refuted:
                break
        return found

    def _decisive(self, found: Audit, examples: Sequence[Tensor]) -> Audit:
        """Run the few sizes that the code of the models asks for."""
        for seed, shape in enumerate(decisive_shapes(examples, self.auditor.log, self.held.limits)):
            found = found if found.refuted else self._tried(found, "another size", self.sampler.draw(shape, seed))
        return found

    def lengths(self, found: Audit) -> Audit:
        """Run the lengths between two at which a decision by sizes went different ways, up to where it turns."""
        for extent in sorted({extent for shape in found.accepted for extent in shape.sizes}):
            found = found if found.refuted else self._lengths(found, extent)
        return found

    def _lengths(self, found: Audit, extent: int) -> Audit:
        if self.budget != FULL:
            return found
        outcomes: dict[int, dict[Site, bool]] = {}
        beyond = [by * limit + 1 for limit in self.held.limits for by in (1, 2)]
        queue = [length for length in (*_LADDER, *beyond) if length <= 4 * self.budget.longest]
        for runs in range(self.budget.turns + len(queue)):
            length = queue[runs] if runs < len(queue) else next(gaps(outcomes), 0)
            if not length or found.refuted:
                break
            found = self._tried(
                found, "another size", self.sampler.draw(Shape(1, sizes={extent: length}), runs), keep=self._kept
            )
            outcomes[length] = single([seen.outcomes for seen in self.auditor.log.last])
        return found

    def turns(self, found: Audit) -> Audit:
        """Run inputs between those that led a decision by values one way and the other."""
        result = [found]

        def run(both: Both) -> None:
            result[0] = self._tried(result[0], "between two inputs that are told apart", both)

        for _ in turns(self.sampler, self.auditor.log, run, self.budget.turns):
            if result[0].refuted:
                break
        return result[0]

    def crossed(self, found: Audit) -> Audit:
        """Run sizes, values, options and manners of calling together: every two of them in one run."""
        base = self.small(found, 3)
        named = Named.of(self.auditor.log, self.held)
        factors = factors_of(self.sampler, base, found.accepted, self.options, named) if self.budget.crossed else []
        names = cache(lambda: {name for name, _ in self._outputs(self.sampler.draw(base, SEED))})
        result = [found]

        def run(text: str, both: Both, optional: bool, large: bool) -> bool:
            keep, named = self._kept + self.budget.crossed, names() if optional else None
            before, tried = result[0], self._tried(result[0], text, both, keep=keep, named=named)
            # An exponential has no value there in one spelling, and one in another.
            result[0] = before if large and isinf(tried.error) else tried
            return result[0] is not before

        for met, left in crossed(self.sampler, base, factors, run, self.budget.crossed) if factors else ():
            if result[0].refuted:
                break
            result[0] = replace(result[0], pairs=(met, left))
        return result[0]

    def ordinary(self, found: Audit) -> Audit:
        """Run inputs that are ordinary but for what a decision asks for, where others alone led it one way."""
        result = [found]

        def run(both: Both) -> None:
            text = "ordinary but for what a decision asks for"
            result[0] = result[0] if result[0].refuted else self._tried(result[0], text, both)

        usual = self.sampler.values(self.small(found, 3), SEED)
        for _ in asked_for(self.sampler, self.auditor.log, usual, run, self.budget.turns):
            if result[0].refuted:
                break
        return result[0]

    def _tried(self, found: Audit, text: str, both: Both, *, keep: int = 0, **manner: Any) -> Audit:
        """Run both models, and note the words of inputs that both accept; an output that does not pair says nothing here.

        As many as `keep` are kept of small inputs of another manner or size: keys that move nothing are changed on these.
        """
        with quiet(both):
            outcome = self.auditor.compare(both, **manner)
        if self.auditor.log.lacking and not found.lacking and all(value.numel() for value in both[0].flat()):
            found = replace(found, lacking=(self.auditor.log.lacking, describe(text, both, Shape())))
        if outcome is None or outcome[1] or (isinf(outcome[0]) and not any(value.numel() for value in both[0].flat())):
            return found  # a mean of nothing, or a shape that is made up for it, tells nothing
        if outcome[0] <= self.auditor.tolerance:
            tried = (*found.tried, both) if keeps(found.tried, both, keep) else found.tried
            return replace(found, error=max(found.error, outcome[0]), special=(*found.special, text), tried=tried)
        return replace(
            found, error=outcome[0], refuted=describe(text, both, Shape()), samples=(*found.samples, both),
            ran=(*found.ran, text),
        )  # fmt: skip

    @property
    def _kept(self) -> int:
        """How many inputs are kept, in other manners as well as sizes, if the models are small."""
        return 2 * self.budget.always


def _count(value: Tensor) -> int:
    return prod(value.shape[1:])
