"""By structure, also on weak evidence: neighbourhoods, assignment, position. For pairs that the others leave open."""

from fxmap.matching.draft import mapping_of
from fxmap.matching.strategies.problem import Outcome, Problem, Strategy, first_plan
from fxmap.matching.structure import plan_by_structure


def _attempt(problem: Problem, earlier: tuple[Outcome, ...]) -> Outcome:
    known = first_plan(earlier)
    if known is None:
        return Outcome(left="there is no graph")
    plan = plan_by_structure(known.src, known.dst, absorb_eps=problem.absorb_eps)
    return Outcome(mapping_of(plan), plan, left=plan.doubt)


WEAK_EVIDENCE = Strategy("structure, on weak evidence", _attempt)
