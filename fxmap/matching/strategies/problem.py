"""What a strategy is given, and what it gives back."""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import nn

from fxmap.files.checkpoint import Checkpoint
from fxmap.mapping.key_mapping import KeyMapping
from fxmap.matching.plan import Plan
from fxmap.model.inputs import Given


@dataclass(frozen=True)
class Problem:
    """Two models to map, or a checkpoint without its model and a model; and how.

    `given` is what the user said about inputs; `absorb_eps` is as in `auto_map`. `traced` says that graphs which needed no
    run may be used: they hold for all inputs, but now and then no interpreter runs them. `names` says that keys may be
    matched by their names where there is no graph, and `run` that models may be run to see whether a mapping is right.
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
    """What one strategy came to.

    `mapping` is an answer; without one the outcome is not chosen, but its `plan` serves the strategies after it. `certain`
    says that no other strategy need be asked. `left` says why the next one is asked, and `no_graph` why the models have no
    graphs, by this source of graphs and those before it.
    """

    mapping: KeyMapping | None = None
    plan: Plan | None = None
    certain: bool = False
    left: str = ""
    no_graph: str = ""


@dataclass(frozen=True)
class Strategy:
    """One way to find a mapping: a name for the trace, and a function of the problem and of what came of those before it."""

    name: str
    attempt: Callable[[Problem, tuple[Outcome, ...]], Outcome]


def first_plan(earlier: tuple[Outcome, ...]) -> Plan | None:
    """Return what structure found on the best graphs that both models have."""
    return next((outcome.plan for outcome in earlier if outcome.plan is not None), None)


def no_graph(earlier: tuple[Outcome, ...]) -> str:
    """Return why the models have no graphs, by all sources that were asked so far."""
    return next((outcome.no_graph for outcome in reversed(earlier) if outcome.no_graph), "")
