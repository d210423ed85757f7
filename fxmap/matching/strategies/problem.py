"""The interface of strategies: a problem goes in, an outcome comes out."""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import nn

from fxmap.files.checkpoint import Checkpoint
from fxmap.mapping.key_mapping import KeyMapping
from fxmap.matching.plan import Plan
from fxmap.model.inputs import Given


@dataclass(frozen=True)
class Problem:
    """Two models to map, or a checkpoint without its model and a model; and the options.

    `given` are the inputs and forward functions that the user gave; `absorb_eps` is as in `auto_map`. `traced` says that
    traced graphs may be used: they are valid for all inputs, but now and then cannot be run. `names` says that keys may be
    matched by their names if there is no graph, and `run` that models may be run to see whether a mapping is right.
    """

    src: nn.Module | Checkpoint
    dst: nn.Module
    given: Given = field(default_factory=Given)
    absorb_eps: bool = False
    traced: bool = True
    names: bool = True
    run: bool = True


@dataclass(frozen=True)
class Outcome:
    """The result of one strategy.

    `mapping` is its answer; an outcome without one is not chosen, but its `plan` serves later strategies. `certain` says
    that no other strategy needs to be tried, and `left` why the next one is. `no_graph` says why this source of graphs, and
    those before it, could not capture the models.
    """

    mapping: KeyMapping | None = None
    plan: Plan | None = None
    certain: bool = False
    left: str = ""
    no_graph: str = ""


@dataclass(frozen=True)
class Strategy:
    """One way to find a mapping: a name for the trace, and a function of the problem and of the earlier outcomes."""

    name: str
    attempt: Callable[[Problem, tuple[Outcome, ...]], Outcome]


def first_plan(earlier: tuple[Outcome, ...]) -> Plan | None:
    """Return the first plan of the earlier outcomes, which comes from the best graphs that both models have; else None."""
    return next((outcome.plan for outcome in earlier if outcome.plan is not None), None)


def no_graph(earlier: tuple[Outcome, ...]) -> str:
    """Return the reason why all sources of graphs tried so far failed; empty if there is none."""
    return next((outcome.no_graph for outcome in reversed(earlier) if outcome.no_graph), "")
