"""By structure, on strong evidence alone: signatures of operations, and pairs that they force. Compares no values."""

from functools import partial

from torch import nn

from fxmap.capture.source import GraphSource
from fxmap.errors import CaptureError
from fxmap.matching.draft import mapping_of
from fxmap.matching.sides import sides
from fxmap.matching.strategies.problem import Outcome, Problem, Strategy, first_plan, no_graph
from fxmap.matching.structure import plan_by_structure


def structure(source: GraphSource) -> Strategy:
    """Return the strategy that aligns the graphs of one source, if no better source can capture both models."""
    return Strategy(f"structure, by {source.name}", partial(_attempt, source))


def _attempt(source: GraphSource, problem: Problem, earlier: tuple[Outcome, ...]) -> Outcome:
    if first_plan(earlier) is not None:
        return Outcome(left="a better source has graphs of both models")
    if not isinstance(problem.src, nn.Module):
        return _without("the source is a state dict, without a model")
    if not source.needs_inputs and problem.given.forward:
        return _without("a function was given to run in the place of forward")
    if not source.needs_inputs and problem.given.in_objects:
        return _without("an argument is an object, whose attributes a trace does not follow")
    if not source.needs_inputs and not problem.traced:
        return _without("a traced graph cannot be run")
    try:
        src, dst = sides(source, problem.src, problem.dst, problem.given, no_graph(earlier))
    except CaptureError as error:
        return _without(str(error))
    plan = plan_by_structure(src, dst, thorough=False, absorb_eps=problem.absorb_eps)
    doubt = plan.doubt
    return Outcome(plan=plan, left=doubt) if doubt else Outcome(mapping_of(plan), plan, certain=True)


def _without(reason: str) -> Outcome:
    return Outcome(left=reason, no_graph=reason)
