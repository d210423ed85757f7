"""Plan: what every key is made of, by structure first, and by values where structure leaves something open."""

import logging

from torch import nn

from fxmap.errors import CaptureError
from fxmap.mapping.key_mapping import KeyMapping
from fxmap.matching.align.align import align
from fxmap.matching.search.walk import search
from fxmap.matching.sides import recorded_sides, sides
from fxmap.matching.structure import Plan, map_by_structure
from fxmap.model.inputs import Given

logger = logging.getLogger(__name__)


def make_plan(
    src: nn.Module, dst: nn.Module, given: Given, *, absorb_eps: bool = False, traced: bool = True
) -> tuple[KeyMapping, Plan]:
    """Capture and align two models, and derive the mapping; by a recorded run from the start unless `traced`.

    Raises:
        CaptureError: they have no graphs by the same rung of the ladder.
        QuantizationError: a quantized module has no float counterpart.
    """
    # Weak evidence is asked only where strong evidence leaves something open, and values cannot tell.
    both = sides(src, dst, given) if traced else recorded_sides(src, dst, given, "a traced graph cannot be run")
    mapping, plan = map_by_structure(*both, thorough=False, absorb_eps=absorb_eps)
    return (mapping, plan) if plan.certain else _decide_by_values(src, dst, given, plan, absorb_eps=absorb_eps)


def _decide_by_values(
    src: nn.Module, dst: nn.Module, given: Given, plan: Plan, *, absorb_eps: bool
) -> tuple[KeyMapping, Plan]:
    """Look for what structure leaves open in a run of both models; where they cannot be run, by weaker evidence."""
    ours, theirs = plan.src, plan.dst
    try:
        if ours.main.inputs is None or theirs.main.inputs is None:
            ours, theirs = recorded_sides(src, dst, given, "structure leaves something open")
            prior = align(ours.main.ops, theirs.main.ops, thorough=False)
        else:
            prior = plan.alignment
        anchors, columns = search(ours.main, theirs.main, prior)
    except (CaptureError, RuntimeError) as error:
        logger.info("structure leaves something open, and the models cannot be run side by side: %s", error)
        return map_by_structure(plan.src, plan.dst, absorb_eps=absorb_eps)
    found = map_by_structure(ours, theirs, anchors, columns, absorb_eps=absorb_eps)
    if len(found[0]) >= len(plan.derivation.expressions):
        return found
    return max(found, map_by_structure(plan.src, plan.dst, absorb_eps=absorb_eps), key=lambda result: len(result[0]))
