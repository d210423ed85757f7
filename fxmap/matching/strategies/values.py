"""By values: run both models on the same inputs to find pairs that structure leaves open; structure does the rest.

See `search` for the idea and the cost. A run needs recorded graphs: those of matching by structure, or else new ones.
"""

import logging

from torch import nn

from fxmap.capture.recorded import RECORDED
from fxmap.errors import CaptureError
from fxmap.matching.derive.derivation import Orders
from fxmap.matching.draft import mapping_of
from fxmap.matching.plan import Plan
from fxmap.matching.search.walk import search
from fxmap.matching.sides import Side, sides
from fxmap.matching.strategies.problem import Outcome, Problem, Strategy, first_plan
from fxmap.matching.structure import aligned, plan_by_structure
from fxmap.model.faults import words
from fxmap.trace import stage

logger = logging.getLogger(__name__)


def _attempt(problem: Problem, earlier: tuple[Outcome, ...]) -> Outcome:
    known = first_plan(earlier)
    if known is None or not isinstance(problem.src, nn.Module):
        return Outcome(left="there is no graph to run")
    try:
        src, dst, anchors, columns = _searched(problem.src, problem, known)
    except (CaptureError, RuntimeError) as error:
        logger.info("structure leaves something open, and the models cannot be run side by side: %s", error)
        return Outcome(left=f"the models cannot be run side by side: {words(error)}")
    plan = plan_by_structure(src, dst, anchors, columns, absorb_eps=problem.absorb_eps)
    mapping, derived = mapping_of(plan), len(known.derivation.expressions)
    if len(mapping) >= derived:
        return Outcome(mapping, plan, certain=True)
    return Outcome(mapping, plan, left=f"{len(mapping)} keys are mapped, where structure derives {derived} tensors")


def _searched(src: nn.Module, problem: Problem, known: Plan) -> tuple[Side, Side, list[tuple[str, str]], Orders]:
    """Run both models together; return both sides, the pairs of layers whose values agree, and orders of input channels."""
    ours, theirs, prior = known.src, known.dst, known.alignment
    if not (ours.main.recorded and theirs.main.recorded):
        ours, theirs = sides(RECORDED, src, problem.dst, problem.given, "structure leaves something open")
        prior = aligned(ours.main.ops, theirs.main.ops, thorough=False)
    with stage("search") as note:
        anchors, columns = search(ours.main, theirs.main, prior)
        note(f"{len(anchors)} layers whose values agree")
    return ours, theirs, anchors, columns


VALUES = Strategy("values", _attempt)
