"""The list of strategies, from the strongest evidence to the weakest, and the function that runs it.

>>> from torch import nn
>>> from fxmap.trace import recording
>>> src, dst = nn.Sequential(nn.Linear(2, 3)), nn.Sequential(nn.Dropout(), nn.Linear(2, 3))
>>> with recording() as steps:
...     outcome = solve(Problem(src, dst))
>>> print(*outcome.mapping.renames.items())
('1.weight', '0.weight') ('1.bias', '0.bias')
>>> [step.stage for step in steps if not step.depth]
['structure, by symbolic trace']

A new strategy is one file and one entry.
"""

from fxmap.capture.ladder import LADDER
from fxmap.errors import CaptureError, FxmapError, InternalError
from fxmap.matching.strategies.names import NAMES
from fxmap.matching.strategies.problem import Outcome, Problem, Strategy, first_plan, no_graph
from fxmap.matching.strategies.structure import structure
from fxmap.matching.strategies.values import VALUES
from fxmap.matching.strategies.weak_evidence import WEAK_EVIDENCE
from fxmap.model.faults import left
from fxmap.model.restoring import let_through
from fxmap.trace import stage

STRATEGIES: tuple[Strategy, ...] = (*(structure(source) for source in LADDER), VALUES, WEAK_EVIDENCE, NAMES)


def solve(problem: Problem, strategies: tuple[Strategy, ...] = STRATEGIES) -> Outcome:
    """Try the strategies in order until one is certain; if none is, choose the answer that maps most keys.

    Of answers that map equally many, the earliest is chosen, which rests on the strongest evidence.

    Raises:
        CaptureError: there is no answer, since the models have no graphs.
        QuantizationError: a quantized module has no float counterpart.
    """
    outcomes: tuple[Outcome, ...] = ()
    for strategy in strategies:
        with stage(strategy.name) as note:
            outcome = attempted(strategy, problem, outcomes)
            note("" if outcome.mapping is None else f"{len(outcome.mapping)} keys", left=outcome.left)
        outcomes += (outcome,)
        if outcome.certain:
            return outcome
    answers = [outcome for outcome in outcomes if outcome.mapping is not None]
    if not answers:
        raise CaptureError(no_graph(outcomes))
    return max(answers, key=lambda outcome: len(outcome.mapping or ()))


def attempted(strategy: Strategy, problem: Problem, earlier: tuple[Outcome, ...]) -> Outcome:
    """Try one strategy; where it fails in a way that nobody thought of, it is left with the reason, and a warning says so.

    Raises:
        FxmapError: an answer, such as a quantized module without a float counterpart.
    """
    try:
        return strategy.attempt(problem, earlier)
    except Exception as error:
        if isinstance(error, FxmapError) and not isinstance(error, InternalError):
            raise
        let_through(error)
        reason = left(strategy.name, error)
        return Outcome(left=reason, no_graph=reason if no_graph(earlier) or first_plan(earlier) is None else "")
