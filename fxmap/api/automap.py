"""auto_map: the stages in order."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch import nn

from fxmap.errors import CaptureError, ProofError, QuantizationError
from fxmap.files.checkpoint import open_checkpoint
from fxmap.mapping.findings import Note, NoteKind, checkpoint_notes
from fxmap.mapping.key_mapping import KeyMapping
from fxmap.mapping.proof import Proof
from fxmap.matching.keys.destination import ask, run_with
from fxmap.matching.keys.mapper import map_by_name
from fxmap.matching.plan import make_plan
from fxmap.model.inputs import Forward, Given
from fxmap.prove.trial import prove

logger = logging.getLogger(__name__)


def auto_map(
    src: nn.Module | Mapping[str, Any] | str | Path,
    dst: nn.Module,
    *,
    example_inputs: Any = None,
    dst_inputs: Any = None,
    src_forward: Forward | None = None,
    dst_forward: Forward | None = None,
    verify: bool | Literal["required"] = True,
    absorb_eps: bool = False,
) -> KeyMapping:
    """Find how every key of the destination is made from keys of the source.

    Args:
        src: the source model; or, without its graph, a state dict or the path of a checkpoint (keys are then matched by
            shapes, names and order, and called guessed).
        dst: the destination model, float or of any quantized form of torch.ao, eager or FX, or of PT2E.
        example_inputs: what both models accept: a tensor, a tuple of arguments, or a dict of keyword arguments; inferred
            where it is left out.
        dst_inputs: what the destination accepts, where that differs.
        src_forward, dst_forward: what to run where the useful function is not forward; called as f(model, *args, **kwargs)
            with the example inputs, which are then needed.
        verify: run both models to prove the mapping; "required" raises unless every key that the output depends on is
            proven.
        absorb_eps: move a different eps of two batch norms into the running variance, instead of reporting it.

    Returns:
        The mapping. Neither model is changed.

    Raises:
        CheckpointError: a path cannot be read.
        QuantizationError: a quantized module has no float counterpart.
        ProofError: `verify="required"`, and a key that matters is not proven.

    Cost: linear in the number of operations, but for assignment inside ambiguous blocks; a proof costs two forward passes
    of each model and one backward pass of the destination.

    >>> from torch import nn
    >>> src = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU())
    >>> dst = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    >>> mapping = auto_map(src, dst)
    >>> print(mapping["0.bias"])
    fold_bias(0, 1.running_mean, 1.running_var, 1.weight, 1.bias, eps=1e-05)
    >>> mapping.proof.ok
    True
    """
    if verify not in (True, False, "required"):
        raise ValueError(f'verify is True, False or "required", not {verify!r}')
    if not isinstance(dst, nn.Module):
        raise TypeError(f"the destination is a model (torch.nn.Module), not {type(dst).__name__}")
    given = Given.of(example_inputs, dst_inputs, src_forward, dst_forward)
    if isinstance(src, nn.Module):
        if given.forward and example_inputs is None:
            raise ValueError("src_forward and dst_forward need example_inputs: what they are called with is not known")
        mapping = _map_models(src, dst, given, verify=bool(verify), absorb_eps=absorb_eps)
    else:
        found = open_checkpoint(src)
        why = "the source is a state dict, without a model"
        mapping = _map_names(found.state, dst, why, given, run=bool(verify), notes=checkpoint_notes(found))
    if verify and mapping.proof is None:
        known = mapping.knowledge
        # Without a graph, one note says why there is none; the others are no reasons.
        reason = "; ".join(known.notes_of(NoteKind.NO_GRAPH) or known.notes) or "no key could be mapped"
        mapping = mapping.with_proof(Proof(statuses=known.statuses, reason=reason))
    if verify == "required" and mapping.proof is not None and not mapping.proof.ok:
        raise ProofError(f"not every key that the output depends on is proven: {mapping.proof}")
    return mapping


def _map_models(src: nn.Module, dst: nn.Module, given: Given, *, verify: bool, absorb_eps: bool) -> KeyMapping:
    try:
        mapping, plan = make_plan(src, dst, given, absorb_eps=absorb_eps)
    except CaptureError as error:
        logger.warning("no graph, keys are mapped by name and shape: %s", error)
        return _map_names(src.state_dict(), dst, str(error), given, run=verify)
    if not verify or not len(mapping):
        return mapping
    proven = prove(mapping, plan, given)
    if proven.proof is None or proven.proof.forwards or proven.knowledge.blocked or plan.dst.main.inputs is not None:
        return proven
    try:
        # Code may be traced to a graph that no interpreter runs: a list that a function changes is a constant of the graph.
        recorded, plan = make_plan(src, dst, given, absorb_eps=absorb_eps, traced=False)
    except (CaptureError, QuantizationError) as error:
        logger.info("the traced graphs cannot be run, and no run can be recorded: %s", error)
        return proven
    return prove(recorded, plan, given) if len(recorded) >= len(mapping) else proven


def _map_names(
    state: Mapping[str, Any], dst: nn.Module, why: str, given: Given, *, run: bool, notes: tuple[Note, ...] = ()
) -> KeyMapping:
    """Map without a graph of the source, with what the destination alone can tell."""
    told = ask(dst)
    mapping = map_by_name(state, dst.state_dict(), why, notes=notes, unread=told.unread, exchanges=told.exchanges)
    ran = run_with(mapping, state, dst, given.dst) if run else ""
    return mapping.with_notes(Note(ran, NoteKind.TRIAL_RUN)) if ran else mapping
