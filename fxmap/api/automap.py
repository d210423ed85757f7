"""auto_map: find a key mapping, then prove it by running both models."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fxmap.api.loaded_form import of_what_is_loaded
from fxmap.api.map_options import MapOptions
from fxmap.api.runnable import runnable
from fxmap.api.stored_form import of_what_is_read
from fxmap.errors import ArgumentError, CaptureError, ProofError, QuantizationError
from fxmap.expressions.base import Source
from fxmap.files.checkpoint import Checkpoint, open_checkpoint
from fxmap.mapping.findings import Note, NoteKind
from fxmap.mapping.key_mapping import KeyMapping
from fxmap.mapping.proof import SINGLE_TOLERANCE, Proof
from fxmap.mapping.versions import versions_of
from fxmap.matching.drawing import drawn
from fxmap.matching.plan import Plan
from fxmap.matching.strategies.equations import EQUATIONS, aligned_by_values
from fxmap.matching.strategies.problem import Outcome, Problem
from fxmap.matching.strategies.solve import attempted, solve
from fxmap.matching.strategies.values import VALUES
from fxmap.model.arguments import refuse_no_model
from fxmap.model.faults import bounded, gathered
from fxmap.model.inputs import Forward, Given
from fxmap.model.lazy import refuse_uninitialised
from fxmap.model.surroundings import undisturbed
from fxmap.prove.graphs.explained import same_operations
from fxmap.prove.trial import prove
from fxmap.run.streamed import is_large
from fxmap.sources.layout import turned
from fxmap.sources.opened import give_back, has_written_norms, lacking, take_as_code, told, unpacked
from fxmap.sources.scaled import scaled
from fxmap.trace import Trace, recording, stage

logger = logging.getLogger(__name__)


@bounded
@undisturbed
def auto_map(
    src: nn.Module | Mapping[str, Any] | str | Path | Checkpoint | torch.export.ExportedProgram,
    dst: nn.Module | str | Path,
    *,
    example_inputs: Any = None,
    dst_inputs: Any = None,
    src_forward: Forward | None = None,
    dst_forward: Forward | None = None,
    verify: bool | Literal["required"] = True,
    absorb_eps: bool = False,
    allow_code: bool = False,
    streamed: bool | None = None,
) -> KeyMapping:
    """Find how every key of the destination is made from keys of the source.

    Args:
        src: the source model; or what carries its graph (the path of an .onnx or .pt2 file, a torch.export program, a
            scripted or traced module); or, without a graph, a state dict or the path of a checkpoint (keys are then matched
            by shapes, names and order, and called guessed).
        dst: the destination model, float or of any quantized form of torch.ao, eager or FX, or of PT2E; or the path of an
            .onnx or .pt2 file.
        example_inputs: inputs that both models accept: a tensor, a tuple of arguments, or a dict of keyword arguments (or
            the dict that forward takes as its one argument); inferred where they are left out.
        dst_inputs: the destination's example inputs, where they differ from the source's.
        src_forward, dst_forward: the function to run instead of the model's forward; called as f(model, *args, **kwargs)
            with the example inputs, which are then required.
        verify: run both models to prove the mapping; "required" raises unless every key that the output depends on is
            proven.
        absorb_eps: move a different eps of two batch norms into the running variance, instead of reporting it.
        allow_code: let torch's interpreter run the code that a TorchScript file holds.
        streamed: prove with weights of which each is drawn when an operation reads it, and dropped afterwards, so that
            neither model need fit into memory; None: where one of them is on the meta device.

    Returns:
        The mapping. Neither model is changed. Its `trace` lists the stages that ran, their times and results, and why a
        strategy was given up for the next one: `print(mapping.trace)`, `mapping.trace.seconds()`.

    Raises:
        CheckpointError: a path cannot be read.
        CaptureError: a model has lazy layers that were never run.
        QuantizationError: a quantized module has no float counterpart.
        ProofError: `verify="required"`, and a key that matters is not proven.

    Cost: linear in the number of operations, but for assignment inside ambiguous blocks; a proof costs two forward passes
    of each model and one backward pass of the destination.

    >>> from torch import Tensor, nn
    >>> src = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU())
    >>> dst = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    >>> mapping = auto_map(src, dst)
    >>> print(mapping["0.bias"])
    fold_bias(0, 1.running_mean, 1.running_var, 1.weight, 1.bias, eps=1e-05)
    >>> mapping.proof.ok
    True
    >>> [step.stage for step in mapping.trace.steps if step.stage in ("align", "derive", "prove")]
    ['align', 'derive', 'prove']
    """
    options = MapOptions(example_inputs, dst_inputs, src_forward, dst_forward, verify, absorb_eps, allow_code, streamed)
    found = mapped(src, dst, options)
    proof = of_what_is_loaded(found.proof, found.keys(), dst) if isinstance(dst, nn.Module) else found.proof
    if verify == "required" and not proof.ok:
        raise ProofError(f"not every key that the output depends on is proven: {proof}")
    return found if proof is found.proof else found.with_verdict(proof)


def mapped(
    src: nn.Module | Mapping[str, Any] | str | Path | Checkpoint | torch.export.ExportedProgram,
    dst: nn.Module | str | Path,
    options: MapOptions,
) -> KeyMapping:
    """Return what `auto_map` does, without asking how the destination loads: what fills it asks what has arrived."""
    verify = options.verify
    if not isinstance(verify, bool | str) or verify not in (True, False, "required"):
        raise ArgumentError(f'verify is True, False or "required", not {verify!r}')
    ours, theirs, example_inputs = unpacked(src, dst, options.example_inputs, options.allow_code)
    refuse_no_model("dst", theirs, "The order is fxmap.auto_map(src, dst)")
    if isinstance(ours, type):
        refuse_no_model("src", ours, "")
    given = replace(options, example_inputs=example_inputs).given(ours, theirs)
    if isinstance(ours, nn.Module) and given.forward and example_inputs is None:
        raise ArgumentError("src_forward and dst_forward need example_inputs: what they are called with is not known")
    refuse_uninitialised(source=ours, destination=theirs)
    # `load` has opened its file, and chosen among its weights.
    source = ours if isinstance(ours, nn.Module | Checkpoint) else open_checkpoint(ours, wanted=theirs.state_dict())
    one, other = runnable(source, theirs, options.streamed if verify else False)
    with recording() as steps, gathered() as faults:
        mapping = _map(
            Problem(one, other, given, absorb_eps=options.absorb_eps or has_written_norms(ours), run=bool(verify))
        )
    proof = mapping.proof
    if not verify:
        proof = Proof.not_asked(mapping.knowledge.statuses, "verify=False; fxmap.verify(src, dst, mapping) proves it")
    elif not proof.asked:
        known = mapping.knowledge
        # Without a graph, one note says why there is none; the others are no reasons.
        reason = "; ".join(known.notes_of(NoteKind.NO_GRAPH) or known.notes) or "no key could be mapped"
        proof = Proof(statuses=known.statuses, reason=reason)
    if isinstance(source, nn.Module):
        proof = of_what_is_read(proof, mapping, source)
    if verify == "required" and not proof.ok:
        raise ProofError(f"not every key that the output depends on is proven: {proof}")
    state = source.state_dict() if isinstance(source, nn.Module) else source.state
    unknown = [Note(text, NoteKind.CHECKPOINT) for text in (lacking(ours, theirs), turned(ours, theirs)) if text]
    if before := scaled(ours):
        unknown.append(Note(before, NoteKind.SCALED_INPUT))
        proof = replace(proof, notes=(*proof.notes, before))
    notes = (*mapping.knowledge.notes, *(Note(text, NoteKind.FAULT) for text in faults), *unknown)
    knowledge = replace(
        mapping.knowledge,
        statuses=mapping.knowledge.statuses | proof.statuses,
        src_shapes=_shapes_read(mapping, state),
        notes=notes,
        versions=versions_of(theirs),
        carried=(told(src, ours, "src"), told(dst, theirs, "dst")),
    )
    return KeyMapping(mapping, knowledge, proof, Trace(tuple(steps)), mapping.graphs)


def _shapes_read(mapping: KeyMapping, state: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the source tensors that are not only renamed."""
    read = {key for part in mapping.values() if not isinstance(part, Source) for key in part.sources()}
    return {key: tuple(state[key].shape) for key in state if key in read and isinstance(state[key], Tensor)}


def _map(problem: Problem) -> KeyMapping:
    """Solve a problem, and prove the mapping if it came from graphs and the models may be run."""
    mapping, plan = _solved(problem)
    if plan is None or not problem.run:
        return mapping
    found = _by_runs(problem, mapping, plan) if len(mapping) else mapping
    if found.proof.refuted:
        found, plan = _with_tables_of_code(problem, found, plan)
    # Equations are solved with whole tensors in memory.
    if is_large(problem.dst):
        return found
    return _by_equations(problem, plan, found) if _is_open(found, plan) else _realigned(problem, plan, found)


def _with_tables_of_code(problem: Problem, refuted: KeyMapping, plan: Plan) -> tuple[KeyMapping, Plan]:
    """Map anew with the tables of a file that no key is made of as numbers of its code, where a run refutes no more then."""
    taken = take_as_code(problem.src, refuted.unexpected, problem.dst)
    if not taken:
        return refuted, plan
    mapping, other = _solved(problem)
    if other is not None and len(mapping) >= len(refuted):
        again = _by_runs(problem, mapping, other)
        if again.proof.forwards and not again.proof.refuted:
            return again, other
    give_back(problem.src, taken)
    return refuted, plan


def _is_open(mapping: KeyMapping, plan: Plan) -> bool:
    """Whether a key that the output depends on has no source, or a run showed the mapping wrong, or could not be made.

    A difference that one operation seems to explain is open where both models have the same such operations.
    """
    known, proof = mapping.knowledge, mapping.proof
    if known.blocked:
        return False
    without = [key for key in (*mapping.missing, *mapping.mismatched) if key not in mapping]  # but tables held in part
    lacking = [key for key in without if key not in known.unread]
    unexplained = proof.differs and same_operations(plan)
    return bool(known.different or lacking or proof.refuted or not proof.forwards or unexplained)


def _by_equations(problem: Problem, plan: Plan, before: KeyMapping) -> KeyMapping:
    """Solve for the destination's weights; return what is known without that if nothing better is found."""
    with stage(EQUATIONS.name) as note:
        outcome = attempted(EQUATIONS, problem, (Outcome(before, plan, left="keys are open"),))
        note("" if outcome.mapping is None else f"{len(outcome.mapping)} keys", left=outcome.left)
    if outcome.mapping is None or outcome.plan is None:
        return before
    again = _proven(outcome.mapping.with_graphs(drawn(outcome.plan)), outcome.plan, problem.given)
    return before if again.proof.refuted else again


def _realigned(problem: Problem, plan: Plan, found: KeyMapping) -> KeyMapping:
    """Prove a mapping whose outputs agree by operations that make equal values, where those that structure pairs do not."""
    statuses = [status for key, status in found.proof.statuses.items() if key not in found.mismatched]
    if found.proof.ok or not found.proof.error <= SINGLE_TOLERANCE or all(one.is_done for one in statuses):
        return found
    with stage("align by values") as note:
        other = aligned_by_values(problem, plan, found)
        note("" if other is None else str(other.alignment).partition(";")[0])
    if other is None or other.alignment.pairs == plan.alignment.pairs:
        return found
    again = _proven(found.with_graphs(drawn(other)), other, problem.given)
    return again if again.proof.ok else found


def _by_runs(problem: Problem, mapping: KeyMapping, plan: Plan) -> KeyMapping:
    """Prove a mapping; where a run refutes it, or its graphs cannot be run, look for another by the values of a run."""
    proven = _proven(mapping, plan, problem.given)
    if proven.proof.refuted:
        return _by_values(problem, plan, proven)
    if proven.proof.forwards or proven.knowledge.blocked or plan.dst.main.recorded:
        return proven
    try:
        # Code may be traced to a graph that no interpreter runs: a list that a function changes is a constant of the graph.
        again, other = _solved(replace(problem, traced=False, names=False))
    except (CaptureError, QuantizationError) as error:
        logger.info("the traced graphs cannot be run, and no run can be recorded: %s", error)
        return proven
    return _proven(again, other, problem.given) if other is not None and len(again) >= len(mapping) else proven


def _by_values(problem: Problem, plan: Plan, refuted: KeyMapping) -> KeyMapping:
    """Look for another mapping by the values of a run; return the refuted one if no better one is found."""
    outcome = attempted(VALUES, problem, (Outcome(plan=plan, left="a run refuted it"),))
    if outcome.mapping is None or outcome.plan is None or len(outcome.mapping) < len(refuted):
        return refuted
    again = _proven(outcome.mapping.with_graphs(drawn(outcome.plan)), outcome.plan, problem.given)
    return refuted if again.proof.refuted or not again.proof.forwards else again


def _solved(problem: Problem) -> tuple[KeyMapping, Plan | None]:
    outcome = solve(problem)
    assert outcome.mapping is not None
    mapping = outcome.mapping if outcome.plan is None else outcome.mapping.with_graphs(drawn(outcome.plan))
    return mapping, outcome.plan


def _proven(mapping: KeyMapping, plan: Plan, given: Given) -> KeyMapping:
    with stage("prove") as note:
        proven = prove(mapping, plan, given)
        note("ok" if proven.proof.ok else proven.proof.verdict, left="" if proven.proof.ok else proven.proof.reason)
    return proven
