"""The proof of a mapping: run both models with random weights, and compare their operations and outputs.

Idea: if two functions that are analytic agree at a random point, they agree everywhere, with probability one: polynomial
identity testing (Schwartz 1980, doi:10.1145/322217.322225; Zippel 1979, doi:10.1007/3-540-09519-5_73), here for models as
functions of their inputs and weights. So the source's tensors are drawn at random, the mapping makes the destination's of
them, and both models run in float64. A key is proven if every operation that reads it gives the source's values, has the
source's static attributes, and if the output depends on the key. What random inputs cannot show (a ReLU6 that never
saturates, a row of an embedding that no input selects) the attributes and the tensors themselves must.

The steps, each in a module of its own:

1. `choose_inputs`: the inputs to run on.
2. `weights`: random tensors of the source, and the destination's, which the mapping makes of them.
3. `graph_runs`: the captured graphs in lockstep, so that every aligned pair is compared on equal inputs.
4. `influence`: one backward pass tells which tensors the outputs depend on.
5. `own_code`: the user's own code of both models.
6. `divergence`: which operations are the same, and where the models part first; `alternatives` for the unclear ones.
7. `examine`: the user's own code on inputs that are drawn anew, and with tensors changed (`audit`, `samples`, `tables`).
8. `conclude`: the status of every key, the scope, and the reason why a proof is not ok.
9. `parts`: where the outputs do not correspond, whether the destination returns what the source computes on the way.

>>> import fxmap
>>> from torch import nn
>>> src, dst = nn.Sequential(nn.Linear(4, 4), nn.Tanh()), nn.Sequential(nn.Linear(4, 4), nn.Sigmoid())
>>> print(fxmap.auto_map(src, dst).proof.divergence)  # doctest: +ELLIPSIS
first divergence: 1 (sigmoid) against 1 (tanh): sigmoid against tanh (relative error ...)

Cost: 6 forward passes in float64 where the models agree, a backward pass counted as two (8 where some numbers of joined or
folded tensors are not reached by the outputs' gradients); more where something is tied, differs or is left unclear. Memory:
both models in float64, and the values of one pass.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from torch import Tensor

from fxmap.errors import shorten
from fxmap.graph.opgraph import INPUT, OUTPUT
from fxmap.mapping.key_mapping import KeyMapping
from fxmap.mapping.proof import TOLERANCE, Proof
from fxmap.matching.align.alignment import Pair
from fxmap.matching.align.symmetry import ties
from fxmap.matching.plan import Plan
from fxmap.model.faults import left
from fxmap.model.inputs import Given
from fxmap.model.kernels import DoubleKernels
from fxmap.model.recall import recalling
from fxmap.model.restoring import let_through
from fxmap.prove.code.scripted import decisions_alone
from fxmap.prove.conclude import (
    behind,
    conclude,
    open_keys,
    still_tensors,
    without_decisions,
    without_scripts,
    without_writes,
)
from fxmap.prove.examine import Examination, Examiner
from fxmap.prove.graphs.aligned import aligned, without, without_exchanged
from fxmap.prove.graphs.alone import alone, factors, summands, with_ties
from fxmap.prove.graphs.alternatives import told_apart
from fxmap.prove.graphs.causes import attribute_cause
from fxmap.prove.graphs.context import Context
from fxmap.prove.graphs.divergence import Verdict, judge
from fxmap.prove.graphs.kinks import shown_by_values
from fxmap.prove.neutral import without_merged
from fxmap.prove.partial.agreement import Agreement
from fxmap.prove.partial.parts import part_of_source
from fxmap.prove.partial.witnesses import witnessed
from fxmap.prove.runs.choose_inputs import ChosenInputs, choose_inputs, windows_of_one
from fxmap.prove.runs.evidence import Evidence, Tables, largest_errors, without_rounding
from fxmap.prove.runs.graph_runs import TROUBLE, GraphRuns
from fxmap.prove.runs.influence import Influence, influence_of
from fxmap.prove.runs.own_code import OwnCode
from fxmap.prove.runs.passes import Passes
from fxmap.prove.runs.weights import Weights, differentiable, held, mapped_weights
from fxmap.prove.streamed import as_streamed
from fxmap.run.distance import distance, is_telling
from fxmap.run.lockstep import Comparison, Reference
from fxmap.run.randomize import random_tensors
from fxmap.run.rerun import Rerun

logger = logging.getLogger(__name__)

# Weights that are drawn to see pieces from both sides of their breaks, for models of fewer numbers than this.
_DRAWS = 3
_FEW = 300_000


def prove(mapping: KeyMapping, plan: Plan, given: Given) -> KeyMapping:
    """Return the mapping with its proof, and with the statuses that the proof gives."""
    proof = proof_of(mapping, plan, given)
    return mapping.with_proof(proof)


def proof_of(mapping: KeyMapping, plan: Plan, given: Given) -> Proof:
    """Prove or refute a mapping by running both models with random weights."""
    statuses = mapping.knowledge.statuses
    if mapping.knowledge.blocked:
        return Proof(statuses=statuses, reason=mapping.knowledge.blocked)
    chosen = choose_inputs(plan, given)
    if chosen is None:
        return Proof(statuses=statuses, reason="no inputs were found that both models accept; pass example_inputs=(x,)")
    try:
        with DoubleKernels():
            proof, spelled = _proof(mapping, plan, chosen), without_exchanged(plan)
            if not proof.ok and spelled is not plan and proof.error <= TOLERANCE:
                # The outputs agree: operations at one place of both graphs may be parts of one function in two spellings.
                second = _proof(mapping, spelled, chosen)
                proof = _closer(second, proof)
            if not proof.ok and proof.divergence is not None and proof.error <= TOLERANCE:
                proof = _by_values(mapping, plan, chosen, proof)
            if not proof.ok and not open_keys(proof.statuses, mapping.knowledge.unread):
                proof = _as_part(mapping, plan, chosen, proof)
    except Exception as error:  # whatever a model raises
        let_through(error)
        proof = Proof(statuses=statuses, reason=left("running both models", error))
    unseen = [name for side in (plan.src, plan.dst) for name in vars(side.model).get("unseen_decisions", ())]
    proof = without_scripts(as_streamed(proof, mapping, plan), decisions_alone(plan.src.model, plan.dst.model))
    return without_decisions(without_writes(proof, (*plan.src.main.mutations, *plan.dst.main.mutations)), unseen)


def _by_values(mapping: KeyMapping, plan: Plan, chosen: ChosenInputs, before: Proof) -> Proof:
    """Prove models of equal outputs whose pieces are spelled in other words, by the values at which they break.

    Pairs that differ, though the outputs are equal, are not counterparts: they are left out.
    """
    passes, draws, spelled = Passes(before.forwards), list[Weights](), plan
    for seed in range(_DRAWS if sum(tensor.numel() for tensor in plan.src.main.tensors.values()) < _FEW else 1):
        graphs, generator = (
            GraphRuns(plan, () if draws else aligned(plan), TOLERANCE, passes),
            torch.Generator().manual_seed(seed),
        )
        drawn = random_tensors(plan.src.main, generator, held(plan.src, mapping.sources()))
        source, reference = graphs.calibrated_source(drawn, chosen.first.src, generator)
        draws.append(mapped_weights(mapping, plan.src, plan.dst, source))
        if not seed:
            run = graphs.lockstep(draws[0].dst, chosen.first.dst, reference)
            spelled = without(plan, partial(_differs, Context(mapping, plan, draws[0], ()), run))
    shown = shown_by_values((plan.src, plan.dst), draws, (chosen.first.src, chosen.first.dst))
    passes.add(2 * len(draws))
    found = _proof(mapping, spelled, chosen, shown) if any(shown) or spelled is not plan else before
    chosen_one = _closer(found, before)
    return replace(chosen_one, forwards=passes.count + (0 if chosen_one is before else found.forwards))


def _closer(later: Proof, before: Proof) -> Proof:
    """Return a proof by fewer pairs, if it is ok, or if the models' own code alone refutes it."""
    refuted = later.divergence is None and before.divergence is not None and later.error > TOLERANCE
    return later if later.ok or refuted else before


def _differs(context: Context, run: Comparison, pair: Pair) -> bool:
    """Whether the two operations of a pair differ in kind, values, or in the operands of pieces.

    Two of one kind, of equal values and other attributes, are counterparts: what the attribute does was not met.
    """
    names = pair.src, pair.dst
    kinds = {side.main.ops.op(name).kind for side, name in zip((context.src, context.dst), names, strict=True)}
    if kinds & {INPUT, OUTPUT}:
        return False
    if run.errors.get(names, 0.0) > TOLERANCE or names in run.operands:
        return True
    return len(kinds) > 1 and attribute_cause(context, *names) is not None


def _as_part(mapping: KeyMapping, plan: Plan, chosen: ChosenInputs, whole: Proof) -> Proof:
    """Prove that the destination is a part of the source; return the proof of the whole where it is none."""
    passes, generator = Passes(whole.forwards), torch.Generator().manual_seed(0)
    drawn = random_tensors(plan.src.main, generator, held(plan.src, mapping.sources()))
    source, _ = GraphRuns(plan, (), TOLERANCE, passes).calibrated_source(drawn, chosen.first.src, generator)
    weights = mapped_weights(mapping, plan.src, plan.dst, source)
    try:
        part = part_of_source(plan, weights, chosen, passes)
    except Exception as error:  # whatever a model raises where it does not run, or takes no hooks
        logger.info("the destination cannot be compared as a part of the source: %s", error)
        return replace(whole, forwards=passes.count)
    try:
        proof = whole if part is None else _proof(mapping, part.plan, part.chosen)
    except TROUBLE as error:
        logger.info("the source does not run as one that returns %s: %s", part, error)
        proof = whole
    if part is None or not proof.ok:
        return replace(whole, forwards=passes.count)
    return replace(proof, forwards=proof.forwards + passes.count, scope=replace(proof.scope, part=str(part)))


def _proof(
    mapping: KeyMapping,
    plan: Plan,
    chosen: ChosenInputs,
    shown: tuple[frozenset[str], frozenset[str]] = (frozenset(), frozenset()),
) -> Proof:
    passes, generator = Passes(), torch.Generator().manual_seed(0)
    tables = Tables.of(mapping, plan)
    pairs = tuple(aligned(plan))
    graphs = GraphRuns(plan, pairs, tables.tolerance, passes)
    # Whatever was loaded, tables that the mapping does not read stay the models' own.
    drawn = random_tensors(plan.src.main, generator, held(plan.src, mapping.sources()))
    source, reference = graphs.calibrated_source(drawn, chosen.first.src, generator)
    if not is_telling(reference.outputs):
        lacking = "the source returns no tensors, so that nothing can be compared"
        reason = "the source's outputs are not finite, or all zero, on random weights" if reference.outputs else lacking
        return Proof(statuses=mapping.knowledge.statuses, reason=reason)
    weights = mapped_weights(mapping, plan.src, plan.dst, source)
    trial = _Trial(graphs, chosen, weights, reference)
    with recalling([*weights.src.values(), *weights.dst.values()]):
        return _tried(trial, Context(mapping, plan, weights, pairs, shown), tables, generator)


def _tried(trial: "_Trial", context: Context, tables: Tables, generator: torch.Generator) -> Proof:
    """Make all runs with the mapped weights, and conclude."""
    mapping, plan, chosen, weights, passes = context.mapping, context.plan, trial.chosen, trial.weights, trial.graphs.passes
    first, influence = trial.first_comparison(context.made(), generator)
    evidence = trial.evidence(first, influence, tables)
    verdict = judge(
        context, evidence.errors, evidence.loose, evidence.difference, evidence.returned, operands=evidence.operands
    )
    sound, examined = set(verdict.sound) - behind(plan.dst.main.ops, {dst for _, dst in evidence.parted}), Examination()
    agree = evidence.agree and verdict.divergence is None and not evidence.parted
    windows = windows_of_one(plan)
    if not evidence.agree and (evidence.parted or evidence.graph_error > evidence.exact):
        sound = witnessed(trial.agreement(context, evidence), sound)
    tied = set[str]()
    if agree:
        found, tied = alone(plan.dst, sound, weights.dst, lambda other: trial.agrees(other, first))
        sound |= found
        sound |= told_apart(plan.dst.main.ops, verdict.unclear, weights.dst, lambda other: trial.agrees(other, first))
    if not evidence.own_code.trouble:
        own_tables = evidence.own_code.tables
        examiner = Examiner(mapping, plan, weights, evidence.returned, passes, bool(windows), own_tables, evidence.outputs)
        examined = examiner.run(chosen.first, still_tensors(mapping, plan.dst, evidence, sound), agree)
        verdict = trial.located(context, evidence, verdict, examined)
    if agree:
        tied |= summands(context, influence.sizes, lambda other: trial.agrees(other, first))
        tied |= factors(plan.dst, weights.dst, lambda other: trial.agrees(other, first))
    proof = with_ties(conclude(mapping, plan.dst, evidence, verdict, sound, examined, passes.count), plan.dst, tied)
    proof = without_merged(proof, mapping, plan.dst)
    note = f"{shorten(windows)}: an average over a window as large as the map, equal to a mean for inputs of this size alone"
    return replace(proof, notes=(*proof.notes, note)) if windows else proof


@dataclass(frozen=True)
class _Trial:
    """The runs of one proof. `reference` is the source's run on the first inputs."""

    graphs: GraphRuns
    chosen: ChosenInputs
    weights: Weights
    reference: Reference

    def first_comparison(self, made: set[str], generator: torch.Generator) -> tuple[Comparison, Influence]:
        """Compare both models in lockstep on the first inputs, and measure the influence of each tensor on the outputs."""
        with differentiable(self.weights.dst) as leaves, torch.enable_grad():
            run = self.graphs.lockstep(self.weights.dst, self.chosen.first.dst, self.reference)
            influence = influence_of(run, leaves, made, generator, self.graphs.passes)
        # Without the values, whose gradients hold the memory of the whole run.
        return replace(run, outputs=[output.detach() for output in run.outputs], seen=[]), influence

    def evidence(self, first: Comparison, influence: Influence, tables: Tables) -> Evidence:
        """Make all other runs, and collect the results of all runs."""
        graphs, weights = self.graphs, self.weights
        own_code = OwnCode(graphs.plan.src, graphs.plan.dst, first.returned, graphs.passes).run(
            weights, self.chosen.own_code, graphs.exact
        )
        runs = [first]
        if first.replaced or first.output_error > graphs.exact or not own_code.agrees:
            # A difference was stepped over to compare the operations behind it, or was not shown by the first inputs: that
            # needs other inputs in lockstep as well.
            runs += self._further_comparisons()
        tied, tried = ties(
            graphs.plan.dst.main.ops, graphs.pairs, None if first.replaced else lambda moved: self._is_tie(moved, first)
        )
        errors, rounded = without_rounding(graphs.plan, graphs.pairs, tables, largest_errors(runs))
        return Evidence(
            inputs=self.chosen.first,
            errors=errors,
            loose=frozenset().union(*(run.loose for run in runs)),
            rounded=rounded,
            graph_error=self._graph_error(runs),
            exact=graphs.exact,
            own_code=own_code,
            parted=frozenset(first.replaced),
            returned=tuple(first.returned),
            equal=frozenset(
                (i, j) for i, j in first.returned if distance(self.reference.outputs[i], first.outputs[j]) <= graphs.exact
            ),
            outputs=(len(self.reference.outputs), len(first.outputs)),
            influence=influence,
            tied=frozenset(tied),
            tried=tried,
            operands={pair: argument for run in runs for pair, argument in run.operands.items()},
        )

    def agreement(self, context: Context, evidence: Evidence) -> Agreement:
        """Return where the two models agree."""
        shapes = {
            pair.src: tuple(self.reference.values[name].shape)
            for pair in context.pairs
            if (name := context.src.main.ops.op(pair.src).output) in self.reference.values
        }
        return Agreement(context, evidence.errors, evidence.loose, evidence.equal, shapes)

    def _further_comparisons(self) -> list[Comparison]:
        graphs, weights = self.graphs, self.weights
        with torch.no_grad():
            return [
                graphs.lockstep(weights.dst, inputs.dst, graphs.source(weights.src, inputs.src))
                for inputs in self.chosen.further
            ]

    def located(self, context: Context, evidence: Evidence, verdict: Verdict, examined: Examination) -> Verdict:
        """Find by lockstep where two models part on the inputs that refute them, if their graphs hold for these."""
        plan, refuting = self.graphs.plan, examined.audit.samples[-1:]
        if not examined.audit.refuted or not refuting or plan.src.main.recorded or plan.dst.main.recorded:
            return verdict
        (inputs,) = refuting
        with torch.no_grad():
            try:
                run = self.graphs.lockstep(self.weights.dst, inputs[1], self.graphs.source(self.weights.src, inputs[0]))
            except TROUBLE:
                return verdict
        errors, _ = without_rounding(plan, self.graphs.pairs, Tables({}, {}), run.errors)
        return judge(context, errors, evidence.loose | run.loose, examined.audit.error, evidence.returned)

    def _graph_error(self, runs: list[Comparison]) -> float:
        """Return the error of the outputs of the captured graphs."""
        error = max(run.output_error for run in runs)
        if error > self.graphs.exact and runs[0].replaced:
            # Where values of the source stood in for operations that are no counterparts, the outputs are not the model's.
            error = min(error, self._error_alone(self.weights.dst, runs[0]))
        return error

    def _is_tie(self, moved: Mapping[str, str], first: Comparison) -> bool:
        """Whether the outputs stay the same with some tensors in the place of others, by path."""
        return self.agrees({**self.weights.dst, **{path: self.weights.dst[other] for path, other in moved.items()}}, first)

    def agrees(self, tensors: Mapping[str, Tensor], first: Comparison) -> bool:
        """Whether the destination gives the source's outputs with other tensors."""
        return self._error_alone(tensors, first) <= self.graphs.exact

    def _error_alone(self, tensors: Mapping[str, Tensor], first: Comparison) -> float:
        inputs, expected = self.chosen.first.dst, self.reference.outputs
        return self.graphs.error_alone(tensors, inputs, expected, first.returned, self._before)

    @cached_property
    def _before(self) -> Rerun | None:
        """A run with the mapped weights, which runs with a few other tensors repeat in part."""
        return self.graphs.alone(self.weights.dst, self.chosen.first.dst)
