"""Untaken: ways of the code that no compared run went, and whether the two models part there.

A way that was not taken matters where the caller chooses it: its condition reads an input, or an attribute that calls set.
What the two models do there is tried: the jump is turned round, in both models where both run this code, and else in the one
that has it, alone and together with one of the other model's. Where the outputs differ whichever is turned, nothing shows
that the models agree there.

What is not tried, since other runs or nothing at all can meet it: ways that only raise or warn, conditions on a class or on
`None` for a parameter (whatever both models take for it is tried), and decisions by sizes and by values, which `decisions`
turns round. Models that are built alike, with the same keys, are one function there as well.

Cost: a run of both models for each such way, up to a limit.
Source: as in `turned`.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice

from torch import nn

from fxmap.prove.audit import Audit, Auditor
from fxmap.prove.conditions import is_one_condition, name_the_same
from fxmap.prove.coverage import Coverage
from fxmap.prove.decisions import Site
from fxmap.prove.jumps import Jump, is_told, jumps_of, written
from fxmap.prove.turned import turned

# How many ways of the other model are turned together with one.
_TOGETHER = 6
# How many jumps that follow one another are turned, and how far apart they may lie, in bytes of code.
_CHAIN, _NEAR = 3, 60
Models = tuple[nn.Module, nn.Module]


@dataclass(frozen=True)
class Way:
    """A way that was not taken: a jump, what its condition never was, and the models that have it."""

    jump: Jump
    outcome: bool
    models: tuple[int, ...]

    @property
    def target(self) -> int:
        """Where the code would go on."""
        return next(way for way in self.jump.ways if self.jump.outcome(way) is self.outcome)

    def __str__(self) -> str:
        return f"{self.jump}, never {str(self.outcome).lower()}"


def untaken(auditor: Auditor) -> list[Way]:
    """Return the ways that no compared run of two models went, and that the caller may choose."""
    found: dict[Jump, Way] = {}
    coverages = auditor.log.coverage
    for which, coverage in enumerate(coverages):
        states = set(_states(coverage))
        for jump, outcome in coverage.untaken():
            if _matters(coverage, jump, outcome, states, auditor.log.outcomes[which]):
                shared = id(jump.code) in coverages[1 - which].followed
                found.setdefault(jump, Way(jump, outcome, (0, 1) if shared else (which,)))
    return list(found.values())


def _states(coverage: Coverage) -> Iterator[str]:
    """Yield the attributes that code sets when it is called."""
    for known in coverage.followed.values():
        if known.own:
            yield from written(known.code)


def _matters(coverage: Coverage, jump: Jump, outcome: bool, states: set[str], sites: Iterable[Site]) -> bool:
    way = Way(jump, outcome, ()).target
    by_caller = not jump.names.isdisjoint(coverage.handed.depends(jump.code)) or not jump.attributes.isdisjoint(states)
    if not by_caller or jump.asks_kind or is_told(jump, way) or _asks_none(jump):
        return False
    return not any(site.code == id(jump.code) and jump.computes(site.instruction * 2) for site in sites)


def _asks_none(jump: Jump) -> bool:
    """Whether a jump asks whether a parameter is None: what is given for it was varied, as far as both models take it."""
    code = jump.code
    return jump.asks_none and jump.names <= set(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])


def without_untaken(auditor: Auditor, found: Audit, limit: int) -> Audit:
    """Turn the ways that were not taken, and return the results with the first at which the models part."""
    ways = untaken(auditor)
    blind = any(coverage.blind for coverage in auditor.log.coverage)
    found = replace(found, avoided=tuple(map(str, ways)), blind=blind)
    if auditor.models is None or auditor.alike:
        return found
    for way in islice(ways, limit):
        if _parts(auditor, auditor.models, way, ways):
            return replace(found, untaken=str(way.jump), never=way.outcome)
    return found


def _parts(auditor: Auditor, models: Models, way: Way, ways: list[Way]) -> bool:
    """Whether two models differ where a jump is turned round, whichever of the other model's is turned with it."""
    outcomes = [_differs(auditor, models, way, jumps) for jumps in _with_next(auditor, way)]
    if way.jump.asks_part and len(way.models) == 2 and outcomes[0] is None:
        return True  # nothing stands there that the code could use, and the two are not built alike
    if True not in outcomes:
        return len(way.models) == 2 and not is_one_condition(way.jump, models) and _parts_alone(auditor, models, way)
    others = [
        other
        for other in ways
        if len(way.models) == 1 and other.models == (1 - way.models[0],) and name_the_same(other.jump, way.jump)
    ]
    return all(_differs(auditor, models, way, [way.jump], other) is not False for other in islice(others, _TOGETHER))


def _parts_alone(auditor: Auditor, models: Models, way: Way) -> bool:
    """Whether two models differ where a jump is turned round in one of them: what it asks may hold in that one alone."""
    return any(_differs(auditor, models, replace(way, models=(which,)), [way.jump]) for which in way.models)


def _with_next(auditor: Auditor, way: Way) -> Iterator[list[Jump]]:
    """Yield a jump alone, and with those that come next and that no run reached, as in `a == 57 and b == 58`."""
    jumps, reached = [way.jump], auditor.log.coverage[way.models[0]].reached
    yield jumps
    target = way.target
    for jump in jumps_of(way.jump.code):
        if jump.offset >= target and len(jumps) < _CHAIN:
            if jump in reached or jump.offset - target > _NEAR:
                break
            jumps = [*jumps, jump]
            yield jumps
            target = jump.offset


def _differs(auditor: Auditor, models: Models, way: Way, jumps: list[Jump], other: Way | None = None) -> bool | None:
    """Whether two models differ where some jumps are turned round; None where they do not run, or do not get there."""
    reached = (auditor.log.coverage[which].reached.get(way.jump) for which in way.models)
    inputs = next((one for one in reached if one is not None), None)
    if inputs is None:
        return None
    with ExitStack() as stack:
        count = stack.enter_context(turned([models[which] for which in way.models], jumps))
        if other is not None:
            stack.enter_context(turned([models[which] for which in other.models], [other.jump]))
        outcome = auditor.compare(inputs, forced=_TURNED) if count else None
    if outcome is None or outcome[1]:
        return None
    return not outcome[0] <= auditor.tolerance


# A run in which code was turned is noted nowhere.
_TURNED = frozenset({Site("", 0, 0, 0, by_value=True)})
