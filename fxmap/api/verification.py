"""verify: prove any mapping between two models."""

from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fxmap.api.loaded_form import of_what_is_loaded
from fxmap.api.runnable import runnable
from fxmap.api.stored_form import of_what_is_read
from fxmap.errors import MappingError, QuantizationError, shorten
from fxmap.expressions.base import Expression
from fxmap.mapping.key_mapping import KeyMapping
from fxmap.mapping.proof import Proof
from fxmap.matching.plan import Plan
from fxmap.matching.strategies.problem import Problem
from fxmap.matching.strategies.solve import solve
from fxmap.model.arguments import refuse_no_model
from fxmap.model.faults import bounded
from fxmap.model.inputs import Given
from fxmap.model.lazy import refuse_uninitialised
from fxmap.model.replica import replicate
from fxmap.model.surroundings import undisturbed
from fxmap.prove.runs.choose_inputs import choose_inputs
from fxmap.prove.trial import proof_of
from fxmap.run.noise import equal_states, loss
from fxmap.sources.opened import take_as_code, unpacked
from fxmap.sources.scaled import scaled
from fxmap.trace import Trace, recording, stage


@bounded
@undisturbed
def verify(
    src: nn.Module | str | Path | torch.export.ExportedProgram,
    dst: nn.Module | str | Path,
    mapping: Mapping[str, Expression | str],
    example_inputs: Any = None,
    dst_inputs: Any = None,
    allow_code: bool = False,
    streamed: bool | None = None,
) -> Proof:
    """Prove any mapping between two models, also one written by hand or read from JSON. Neither model is changed.

    Args:
        src, dst: the two models, or what carries its graph, as in `auto_map`.
        mapping: a KeyMapping, or a dict that one can be made of.
        example_inputs: inputs that both models accept: a tensor, a tuple, or a dict of keyword arguments; inferred where
            they are left out. With `dst_inputs`, inputs of the source.
        allow_code, streamed: as in `auto_map`.

    Returns:
        The proof. `ok` is false where a key that the output depends on is absent or wrong.

    Raises:
        CaptureError: a model has no graph.
        MappingError: the mapping makes a key that the destination does not have, or reads one that the source does not; or
            it is no mapping.

    Cost: as `auto_map`.

    >>> src, dst = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    >>> proof = verify(src, dst, {"0.weight": "1.weight", "0.bias": "0.bias", "1.weight": "0.weight", "1.bias": "1.bias"})
    >>> proof.ok
    False
    >>> print(proof.divergence.attribute)
    0.weight is 1.weight, which is not 0.weight
    """
    if isinstance(mapping, nn.Module):
        raise MappingError(f"mapping is the model {type(mapping).__name__}: call verify(src, dst, mapping), in this order")
    by_hand = mapping if isinstance(mapping, KeyMapping) else KeyMapping(mapping)
    ours, theirs, example_inputs = unpacked(src, dst, example_inputs, allow_code)
    for name, model in (("src", ours), ("dst", theirs)):
        refuse_no_model(name, model, "A file without its graph cannot be run: give the model that it was saved from")
    refuse_uninitialised(source=ours, destination=theirs)
    _check_keys(by_hand, ours, theirs)
    take_as_code(ours, set(ours.state_dict()) - by_hand.sources(), theirs)
    given = Given.of(example_inputs, dst_inputs, models=(ours, theirs))
    one, other = runnable(ours, theirs, streamed)
    with recording() as steps:
        found = solve(Problem(one, other, given, names=False))
        assert found.mapping is not None
        assert found.plan is not None
        with stage("prove"):
            proof = proof_of(KeyMapping(by_hand, found.mapping.knowledge), found.plan, given)
        proof = of_what_is_loaded(of_what_is_read(proof, by_hand, ours), by_hand.keys(), theirs)
        proof = replace(proof, notes=(*proof.notes, *filter(None, [scaled(ours)])))
        noise = _loss(by_hand, one, found.plan, given) if found.plan.dst.twin.converted else proof.sqnr
    return replace(proof, sqnr=noise, trace=Trace(tuple(steps)))


def _loss(mapping: KeyMapping, src: nn.Module, plan: Plan, given: Given) -> float | None:
    """Return the SQNR of an int8 destination against the float source; None if it does not hold the mapped tensors."""
    state, own, prefix = src.state_dict(), plan.dst.model.state_dict(), plan.dst.prefix
    chosen = choose_inputs(plan, given)
    if chosen is None or chosen.first.src.forward or chosen.first.dst.forward:
        return None
    if not all(equal_states(own[key.removeprefix(prefix)], part.evaluate(state)) for key, part in mapping.items()):
        return None
    reference, filled = (replicate(side.model, own=True).eval() for side in (plan.src, plan.dst))
    try:
        return loss(lambda: chosen.first.src.call(reference), lambda: chosen.first.dst.call(filled))
    except QuantizationError:
        return None


def _check_keys(mapping: KeyMapping, src: nn.Module, dst: nn.Module) -> None:
    for model, used, what in ((dst, set(mapping), "destination"), (src, mapping.sources(), "source")):
        known = list(model.state_dict())
        strangers = sorted(used.difference(known))
        if strangers:
            close = get_close_matches(strangers[0], known, n=1)
            hint = f"; the closest is {close[0]}" if close else ""
            raise MappingError(
                f"{shorten(strangers)}: no key of the {what}, which has {len(known)} keys{hint}. "
                "Correct the mapping, or make it with fxmap.auto_map"
            )
