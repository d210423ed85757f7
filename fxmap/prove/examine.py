"""Examine: the further conditions of a proof, tested by running the user's own code of both models.

The lockstep has shown that the two graphs agree where they were run, and which keys move the outputs there. The questions
here are answered by the audit, and by changing tensors and running again:

- Do both models agree on inputs that are drawn anew, and with weights of another size?
- Do keys that are called inert move nothing? A gradient of 0 does not say so: an argmax, a router or a dead ReLU has none.
- Does the source read state (a mean, a threshold, a permutation) of which the mapping makes nothing?
- Does state that code reads (`read_state`) go where the mapping puts it? It is changed in the source, and in the
  destination by the mapping.

Cost: the audit, and about two forward passes of each model for each of the other questions.
"""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from fxmap.expressions.arithmetic import Shifted
from fxmap.mapping.key_mapping import KeyMapping
from fxmap.matching.plan import Plan
from fxmap.model.inputs import Inputs
from fxmap.model.recall import active, recalling
from fxmap.model.restoring import let_through
from fxmap.model.tensors import Named, named_outputs
from fxmap.prove.audits.audit import Audit, Auditor, difference, paired
from fxmap.prove.audits.further import further
from fxmap.prove.calls.held_names import HeldNames
from fxmap.prove.calls.interface import chosen_by_caller, interface_of
from fxmap.prove.calls.listed import as_drawn
from fxmap.prove.code.coverage import Coverage
from fxmap.prove.code.decision_log import Log
from fxmap.prove.code.limits import limits_of
from fxmap.prove.code.twins import is_one_function
from fxmap.prove.inputs.budget import Budget
from fxmap.prove.inputs.samples import Both, Sampler, common_batch, telling
from fxmap.prove.runs.choose_inputs import InputPair
from fxmap.prove.runs.own_code import call_own
from fxmap.prove.runs.passes import Passes
from fxmap.prove.runs.weights import Weights, held, mapped_weights
from fxmap.prove.state.changed import noise, scaled, scaled_in_place
from fxmap.prove.state.read_state import Reads, ReadState
from fxmap.prove.state.search import Search
from fxmap.prove.state.tables import extra_state, kept_tables, without_counterpart
from fxmap.run.precision import SinglePrecision


@dataclass(frozen=True, slots=True)
class Tolerances:
    """Differences that count as equal, relative to the largest value of a sample."""

    # Drawn inputs are larger than those of the lockstep, and rounding grows with them: a hundred times its 1e-9.
    double: float = 1e-7
    # Where a model computes a part in float32 by itself: float32 rounds to 6e-8, and logits of 1000 to 6e-5.
    single: float = 1e-3
    # A changed tensor that moves the outputs by less than this has no influence.
    still: float = 1e-10


TOLERANCES = Tolerances()
# Layers that torch runs by other code where there are no gradients, and nothing watches.
_FAST = (nn.TransformerEncoder, nn.TransformerEncoderLayer, nn.MultiheadAttention)
# Weights are scaled by these factors: up, for operations behind a norm that takes the scale of the inputs away; and down so
# far that a constant that is added to a norm before a division shows.
# The factors are powers of two, which round nothing.
_FACTORS = (4.0, 2.0**-20)
# Weights are changed by so much, relative to them, to see how rounding grows; the rounding of two models may differ by as
# many times that as they have operations.
_LAST_DIGITS = 1e-15
# Weights are enlarged by no less than this.
_LEAST = 2.0
_ROUNDING = 100.0
# How many values of each integer tensor are tried: all, or few where a run takes long.
_VALUES, _FEW_VALUES = 60, 2


@dataclass(frozen=True)
class Examination:
    """The results of running the user's own code of both models.

    Attributes:
        audit: the runs on drawn inputs.
        moving: tensors of the destination, by path, that were called inert and move the outputs.
        unmapped: tensors of the source, by path, that move its outputs and have no counterpart in the destination.
        permuted: state of the destination, by path, of which other values move both models alike.
        unlike: state of which other values, in the source and by the mapping in the destination, give other outputs.
    """

    audit: Audit = field(default_factory=Audit)
    moving: frozenset[str] = frozenset()
    unmapped: tuple[str, ...] = ()
    permuted: frozenset[str] = frozenset()
    unlike: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Examiner:
    """The two models with the proof's weights, and which output of the source is which of the destination.

    `sized` says that the proof holds for maps of the given size alone; `tables` are the rows of the tables that integer
    inputs of each model index, by their position; `counts` says how many outputs each model returned.
    """

    mapping: KeyMapping
    plan: Plan
    weights: Weights
    pairing: Sequence[tuple[int, int]]
    passes: Passes
    sized: bool = False
    tables: tuple[Mapping[int, int], Mapping[int, int]] = ({}, {})
    counts: tuple[int, int] | None = None
    # Filled when a run shows it: code that computes in float32 does so for other inputs as well.
    _singles: list[bool] = field(default_factory=list)

    def run(self, inputs: InputPair, inert: Iterable[str], agree: bool) -> Examination:
        """Run all tests, up to the first difference.

        Args:
            inputs: the inputs of the lockstep.
            inert: the tensors, by path, that seem to move nothing.
            agree: whether the lockstep showed no difference; after one, only labels are asked for.
        """
        both = inputs.src.double(), inputs.dst.double()
        if not agree:
            seen = self._audit(both, float("inf"), whole=False) if inert else Audit()
            return Examination(moving=frozenset(self._moving(seen, list(inert))))
        found = self._audited(both)
        if found.refuted or found.unpaired or not found.samples:
            return Examination(found)
        samples = telling(found.samples, thrifty=self._budget.thrifty)
        state = self._state(found, samples[0])
        permuted, unlike = state.run()
        moving = self._moving(found, list(inert))
        ignored = state.ignored(kept_tables(self.mapping, self.plan.dst))
        unmapped = [*self._unmapped(samples, ignored), *extra_state(self.plan.src.model)]
        return Examination(found, frozenset(moving), tuple(unmapped), frozenset(permuted), frozenset(unlike))

    @cached_property
    def _held(self) -> HeldNames:
        return HeldNames.of(self.plan.src.model, self.plan.dst.model)

    @property
    def _budget(self) -> Budget:
        return Budget.of(sum(tensor.numel() for tensor in self.weights.src.values()))

    def _audited(self, both: Both) -> Audit:
        found = self._audit(both, TOLERANCES.double)
        if found.refuted and self._is_no_difference(found.error, self.weights, found.samples[-1]):
            found = self._audit(both, TOLERANCES.single)
        for index, factor in enumerate(_FACTORS):
            if not found.refuted and not found.unpaired and found.samples:
                found = self._with_other_weights(found, factor, (found.alone[index], found.samples[0]))
        return found

    def _is_no_difference(self, error: float, weights: Weights, sample: Both) -> bool:
        """Whether a difference is one of rounding, in float32 inside a model or in float64 that grew."""
        return error <= TOLERANCES.single and (self._is_single(sample) or self._is_rounding(error, weights, sample))

    def _is_rounding(self, error: float, weights: Weights, sample: Both) -> bool:
        """Whether the source itself moves as far when its weights change in their last digits.

        Where nothing keeps values small, activations grow and cancel, and rounding grows with them: a difference of this
        size says nothing of two models (the condition number, Higham, Accuracy and Stability of Numerical Algorithms, 2002).
        """
        generator = torch.Generator().manual_seed(11)
        noisy = {
            path: tensor * (1 + _LAST_DIGITS * noise(tensor, generator)) if tensor.is_floating_point() else tensor
            for path, tensor in weights.src.items()
        }
        self.passes.add(2)
        with torch.no_grad():
            ours, moved = (call_own(self.plan.src, tensors, sample[0]) for tensors in (weights.src, noisy))
        pairs = zip(named_outputs(ours), named_outputs(moved), strict=True)
        batch = common_batch(sample[0].flat())
        return error <= _ROUNDING * max((difference(a, b, batch) for (_, a), (_, b) in pairs), default=0.0)

    def _is_single(self, sample: Both) -> bool:
        """Whether one of the models computes in float32 by itself: then its rounding does not count as a difference."""
        if not self._singles:
            with SinglePrecision() as seen:
                self._outputs(self.weights, sample)
            self._singles.extend([True] * seen.found)
        return bool(self._singles)

    def _audit(self, both: Both, tolerance: float, *, whole: bool = True) -> Audit:
        src, dst = self.plan.src, self.plan.dst

        def counted(call: Callable[[Inputs], object]) -> Callable[[Inputs], object]:
            def run(inputs: Inputs) -> object:
                # A run without a sample computes nothing.
                self.passes.add(int(all(value.numel() for value in inputs.flat())))
                return call(inputs)

            return run

        signatures = interface_of(src.main.module, both[0]), interface_of(dst.main.module, both[1])
        outer = chosen_by_caller(both, signatures)
        auditor = Auditor(
            counted(lambda inputs: call_own(src, self.weights.src, inputs)),
            counted(lambda inputs: call_own(dst, self.weights.dst, inputs)),
            tolerance,
            self.pairing,
            self.counts,
            Log(coverage=(Coverage.of(src.model, outer[0]), Coverage.of(dst.model, outer[1]))),
            (src.main.module, dst.main.module),
            is_one_function(self.mapping, src, dst),
        )
        limits, budget = self._held.limits if whole else limits_of(src.model, dst.model), self._budget
        found, drawn = Audit(), as_drawn(both, self.tables)
        for given, tables in (drawn, (both, self.tables)) if drawn[0] is not both else (drawn,):
            sampler = Sampler.of(given, tables)
            found = auditor.audit(sampler, limits, sized=self.sized, longest=budget.longest, thrifty=budget.thrifty)
            if found.samples or found.unpaired:
                break
        found = found if found.samples or found.unpaired else auditor.reordered(Sampler.of(both, self.tables))
        if not whole:
            return found
        fast = any(isinstance(module, _FAST) for model in (src.model, dst.model) for module in model.modules())
        return further(auditor, found, budget=budget, signatures=signatures, held=self._held, sized=self.sized, fast=fast)

    def _with_other_weights(self, found: Audit, factor: float, choices: Sequence[Both]) -> Audit:
        """Run again with all weights that the mapping reads scaled; biases are not enlarged, which would hide the inputs."""
        canonical = self.plan.src.main.canonical
        keys = self.mapping.sources()
        if factor < 1:
            # Code that adds a number to a weight, in float32, has no digits left of a small one.
            keys -= {key for made in self.mapping.values() if isinstance(made, Shifted) for key in made.sources()}
        mapped = {canonical[path] for path in held(self.plan.src, keys)}
        chosen = [
            path for path, tensor in self.weights.src.items() if canonical[path] in mapped and _is_weight(tensor, factor)
        ]
        recall, own = active(), self.weights.src
        quick = recall is not None and recall.is_unwritten
        with scaled_in_place(own, chosen, factor) if quick else nullcontext(scaled(own, chosen, factor)) as changed:
            sample, error = self._error_with(self._mapped(changed), choices)
        if error is None:
            return found
        if error > TOLERANCES.double:
            # Other weights than these have to be at hand, too.
            weights = self._mapped(scaled(own, chosen, factor))
            if self._is_no_difference(error, weights, sample):
                error = 0.0
            if error > TOLERANCES.single and factor > _LEAST and self._is_rounding(error, weights, sample):
                # What saturates keeps values small, and lets rounding grow: such weights say nothing.
                return self._with_other_weights(found, factor / 2, choices)
        text = f"{sample[0].size} with weights {factor:g} times as large"
        ran = (*found.ran, text)
        return replace(found, error=max(found.error, error), ran=ran, refuted="" if error <= TOLERANCES.double else text)

    def _mapped(self, source: Mapping[str, Tensor]) -> Weights:
        return mapped_weights(self.mapping, self.plan.src, self.plan.dst, source)

    def _error_with(self, weights: Weights, choices: Sequence[Both]) -> tuple[Both, float | None]:
        """Return the first inputs that both models accept with other weights, and how far their outputs are apart."""
        for sample in choices:
            outputs = self._outputs(weights, sample)
            if outputs is not None:
                return sample, self._difference(*outputs, sample)
        return choices[0], None

    def _outputs(self, weights: Weights, sample: Both) -> tuple[object, object] | None:
        """Return the outputs of both models; None where one of them does not run, or the source's are not finite."""
        self.passes.add(2)
        try:
            with torch.no_grad(), recalling([*weights.src.values(), *weights.dst.values()]):
                ours = call_own(self.plan.src, weights.src, sample[0])
                theirs = call_own(self.plan.dst, weights.dst, sample[1])
        except Exception as error:  # whatever a model raises with tensors that do not fit it
            let_through(error)
            return None
        finite = all(bool(torch.isfinite(value).all()) for _, value in named_outputs(ours) if value.is_floating_point())
        return (ours, theirs) if finite else None

    def _difference(self, ours: object, theirs: object, sample: Both) -> float:
        pairs, _ = paired(named_outputs(ours), named_outputs(theirs), self.pairing)
        batch = common_batch(sample[0].flat())
        return max((difference(a, b, batch) for a, b in pairs), default=float("inf"))

    # -- tensors that are changed -------------------------------------------------------------------------------------

    def _moving(self, found: Audit, inert: list[str]) -> list[str]:
        """Return the supposedly inert tensors of the destination that do move its outputs."""
        side, own = self.plan.dst, self.weights.dst
        returned = {id(sample): outputs for sample, outputs in zip(found.samples, found.outputs, strict=True)}
        before = [(sample, returned[id(sample)]) for sample in telling(found.samples, thrifty=self._budget.thrifty)]

        def outputs(tensors: Mapping[str, Tensor], sample: Both) -> Named:
            return named_outputs(call_own(side, tensors, sample[1]))

        search = self._search
        moving = search.found(inert, own, before, outputs)
        # What the graph does not read is matched, whatever it moves.
        rest = [path for path in inert if path not in moving and path in side.main.read]
        moving += search.found(rest, own, search.special(found, partial(outputs, own)) if rest else (), outputs)
        rest = [path for path in rest if path not in moving]
        return moving + search.behind(rest, own, [sample for sample, _ in before], outputs)

    @property
    def _search(self) -> Search:
        return Search(self.passes, self._budget)

    def _unmapped(self, samples: Sequence[Both], ignored: Container[str]) -> list[str]:
        """Return the source's tensors that move its outputs and have no counterpart in the destination.

        A table that the destination has by the same name, and ignores, has none in what its code computes instead.
        """
        side, own = self.plan.src, self.weights.src
        # Tensors whose counterpart has another shape, as in a replaced head, are reported elsewhere.
        known = held(side, self.mapping.sources() | {mismatch.source for mismatch in self.mapping.knowledge.mismatched})
        canonical = side.main.canonical
        rest = [path for path, tensor in own.items() if path not in known and tensor.numel() and canonical[path] == path]
        without = without_counterpart(self.plan, rest)
        rest = [path for path in rest if path in without or path in ignored]
        if not rest:
            return []
        # The destination may be a part of the source: then only the outputs count that it has as well.
        with torch.no_grad():
            theirs = {id(one): named_outputs(call_own(self.plan.dst, self.weights.dst, one[1])) for one in samples}

        def shared(tensors: Mapping[str, Tensor], sample: Both) -> Named:
            ours = named_outputs(call_own(side, tensors, sample[0]))
            return [("", one) for one, _ in paired(ours, theirs[id(sample)], self.pairing)[0]]

        with torch.no_grad():
            before = [(sample, shared(own, sample)) for sample in samples]
        return self._search.found(rest, own, before, shared)

    def _state(self, found: Audit, sample: Both) -> ReadState:
        """Return the test of the state that the models' own code reads."""
        sides = self.plan.src, self.plan.dst

        def call(which: int, tensors: Mapping[str, Tensor], reads: Reads | None) -> object:
            self.passes.add()
            return call_own(sides[which], tensors, sample[which], None if reads is None else reads.among)

        def differ(ours: object, theirs: object) -> float:
            return self._difference(ours, theirs, sample)

        numbers = (*found.numbers, *self._held.numbers)
        limit = _FEW_VALUES if self._budget.thrifty else _VALUES
        return ReadState(
            self.mapping, self.plan, self.weights, sample, call, differ, TOLERANCES.double, TOLERANCES.still, numbers, limit
        )


def _is_weight(tensor: Tensor, factor: float) -> bool:
    return (tensor.is_floating_point() or tensor.is_complex()) and (factor < 1 or tensor.dim() > 1)
