"""By equations: solve for the destination's weights, and recognise what was solved among the source's numbers.

For what structure and search leave open. No rule for any operation is needed: nearly every value of a network is affine
in the weights of the layer that makes it, whatever operations spell it. See `fxmap.matching.solve` for the idea, its cost
and its limits. What is found is taken only if both graphs then compute the same for other weights and inputs; what is proven
is for the proof to say.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from fxmap.capture.recorded import RECORDED
from fxmap.errors import CaptureError
from fxmap.expressions.base import Expression
from fxmap.mapping.proof import Status
from fxmap.matching.derive.derivation import Derivation
from fxmap.matching.draft import mapping_of
from fxmap.matching.plan import Plan
from fxmap.matching.sides import sides
from fxmap.matching.solve.anchors import by_values
from fxmap.matching.solve.weights import Solution, drawn_beside, solve_weights
from fxmap.matching.strategies.problem import Outcome, Problem, Strategy, first_plan
from fxmap.matching.structure import plan_by_structure, with_siblings
from fxmap.model.faults import left
from fxmap.model.restoring import let_through
from fxmap.trace import stage

logger = logging.getLogger(__name__)


def _attempt(problem: Problem, earlier: tuple[Outcome, ...]) -> Outcome:
    known = first_plan(earlier)
    if known is None or not isinstance(problem.src, nn.Module):
        return Outcome(left="there is no graph to run")
    if known.src.twin.converted or known.dst.twin.converted:
        return Outcome(left="a model is quantized")
    try:
        plan = _recorded(problem.src, problem, known)
    except CaptureError as error:
        return Outcome(left=f"the models cannot be run side by side: {error}")
    if not all(side.main.inputs is not None and side.main.inputs.flat() for side in (plan.src, plan.dst)):
        return Outcome(left="no input is a tensor, so that none can be drawn")
    with stage("solve") as note:
        try:
            found = solve_weights(plan.src.main, plan.dst.main, _known(earlier, plan))
        except Exception as error:  # whatever an operation of a model raises on stacked inputs
            let_through(error)
            return Outcome(left=left("solving for the weights", error))
        note(f"{len(found.expressions)} tensors solved for", left="" if found.equal else found.why)
    if not found.equal:
        return Outcome(left=found.why or "no weights were found that make both models equal")
    plan = _with(plan, found)
    return Outcome(mapping_of(plan), plan, certain=True)


def _known(earlier: tuple[Outcome, ...], plan: Plan) -> list[dict[str, Expression]]:
    """Return what is known of the destination's tensors: what was proven, and all that was mapped."""
    before = next((outcome.mapping for outcome in earlier if outcome.mapping is not None), None)
    if before is None or plan.src.prefix or plan.dst.prefix:
        return []
    src, dst = plan.src.main, plan.dst.main
    every = {
        key: made
        for key, made in before.items()
        if dst.canonical.get(key) == key and all(source in src.tensors for source in made.sources())
    }
    proven = {key: made for key, made in every.items() if before.status(key) in (Status.PROVEN, Status.TIED)}
    return [proven, every]


def _recorded(src: nn.Module, problem: Problem, known: Plan) -> Plan:
    """Return a plan whose graphs can be run: the known one, or one that is made of recorded runs."""
    if known.src.main.recorded and known.dst.main.recorded:
        return known
    ours, theirs = sides(RECORDED, src, problem.dst, problem.given, "structure leaves something open")
    return plan_by_structure(ours, theirs, absorb_eps=problem.absorb_eps)


def _with(plan: Plan, found: Solution) -> Plan:
    """Return the plan with the solved tensors in the place of what structure derived, aligned by the values they give."""
    before = plan.derivation
    solved = dict(found.expressions)
    kept = {path: made for path, made in before.expressions.items() if path not in solved and path not in found.unknown}
    derivation = Derivation(
        {**kept, **solved},
        {path: wrong for path, wrong in before.mismatched.items() if path not in solved},
        {path: reason for path, reason in before.reasons.items() if path not in solved},
    )
    alignment, checked = plan.alignment, found.checked
    if checked is not None:
        alignment = by_values(*checked.networks, alignment, found.expressions, checked.tensors, checked.inputs)
    return replace(plan, alignment=alignment, derivation=with_siblings(plan.src, plan.dst, derivation))


def aligned_by_values(problem: Problem, plan: Plan, mapping: Mapping[str, Expression]) -> Plan | None:
    """Return a plan whose operations are aligned by the values that they make under a mapping; None where it cannot be.

    Structure may have paired operations that stand at one place and compute something else, though both models return the
    same: products in another order, an activation of one layer beside that of another.
    """
    if not isinstance(problem.src, nn.Module) or plan.src.twin.converted or plan.dst.twin.converted:
        return None
    try:
        plan = _recorded(problem.src, problem, plan)
        src, dst = plan.src.main, plan.dst.main
        made = {key: one for key, one in mapping.items() if dst.canonical.get(key) == key}
        if (
            plan.src.prefix
            or plan.dst.prefix
            or any(key not in src.tensors for one in made.values() for key in one.sources())
        ):
            return None
        drawn = drawn_beside(src, dst)
        alignment = by_values(*drawn.networks, plan.alignment, made, drawn.tensors, drawn.inputs)
    except Exception as error:  # whatever an operation of a model raises on stacked inputs
        let_through(error)
        logger.info("operations cannot be aligned by values: %s", error)
        return None
    return replace(plan, alignment=alignment)


EQUATIONS = Strategy("equations", _attempt)
