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

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from types import CodeType

from fxmap.prove.audits.audit import Audit, Auditor
from fxmap.prove.audits.other_way import Models, OtherWay, Outcome, Ran, outcome_of
from fxmap.prove.audits.unselected import Selected
from fxmap.prove.code.conditions import is_one_condition, name_the_same
from fxmap.prove.code.coverage import Coverage
from fxmap.prove.code.decisions import Site
from fxmap.prove.code.jumps import Jump, is_told, jumps_of, written
from fxmap.prove.code.none_by_choice import is_none_by_choice
from fxmap.prove.code.turned import turned
from fxmap.prove.inputs.samples import Both

# How many ways of the other model are turned together with one.
_TOGETHER = 6
# How many jumps that follow one another are turned, and how far apart they may lie, in bytes of code.
_CHAIN, _NEAR = 3, 60
# How many inputs are run again for each way that may be gone, to see what is selected.
_AGAIN = 5


@dataclass(frozen=True)
class Way:
    """A way that was not taken: a jump, what its condition never was, and the models that have it.

    `then` are jumps behind it that are turned together with it.
    """

    jump: Jump
    outcome: bool
    models: tuple[int, ...]
    then: tuple[Jump, ...] = ()

    @property
    def target(self) -> int:
        """Where the code would go on."""
        return next(way for way in self.jump.ways if self.jump.outcome(way) is self.outcome)

    @property
    def never(self) -> object:
        """What no run made of the condition."""
        return self.outcome

    def inputs(self, auditor: Auditor) -> Both | None:
        """Return inputs that led to the jump."""
        reached = (auditor.log.coverage[which].reached.get(self.jump) for which in self.models)
        return next((one for one in reached if one is not None), None)

    @contextmanager
    def taken(self, models: Models) -> Iterator[Ran | None]:
        """Turn the jumps round; return what says whether the code ran then."""
        with turned([models[which] for which in self.models], [self.jump, *self.then]) as made:
            yield (lambda auditor: _ran(auditor, self.models, made)) if made else None

    def __str__(self) -> str:
        return f"{self.jump}, never {str(self.outcome).lower()}"


def _ran(auditor: Auditor, models: tuple[int, ...], codes: list[CodeType]) -> bool:
    """Whether some of the code ran in each of some models."""
    return all(any(id(code) in auditor.log.ran.get(which, ()) for code in codes) for which in models)


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
    if not by_caller or jump.asks_kind or is_told(jump, way) or _asks_none(jump) or is_none_by_choice(jump):
        return False
    return not any(site.code == id(jump.code) and jump.computes(site.instruction * 2) for site in sites)


def _asks_none(jump: Jump) -> bool:
    """Whether a jump asks whether a parameter is None: what is given for it was varied, as far as both models take it."""
    code = jump.code
    return jump.asks_none and jump.names <= set(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])


def without_untaken(auditor: Auditor, found: Audit, limit: int) -> Audit:
    """Go the ways that were not taken, and return the results with the first at which the models part."""
    jumps, decided = untaken(auditor), found.avoided
    blind = any(coverage.blind for coverage in auditor.log.coverage)
    found = replace(found, avoided=(*decided, *map(str, jumps)), blind=blind)
    if auditor.models is None or auditor.alike:
        return found
    one, other = (set(_states(coverage)) for coverage in auditor.log.coverage)
    selected = Selected.of(auditor, auditor.models, (one, other), _AGAIN * limit)
    selections = selected.unselected()
    ways, nothing = list[OtherWay]([*jumps, *selections, *selected.met()]), set[int]()
    for way in list[OtherWay]([*jumps[:limit], *selections[:limit]]):
        outcomes = [outcome_of(auditor, auditor.models, one) for one in _with_next(auditor, way)]
        if _parts(auditor, auditor.models, way, outcomes, ways) and not selected.has(way):
            return replace(found, untaken=str(way.jump), never=way.never)
        nothing |= {id(way)} if outcomes[0] in (Outcome.UNSHOWN, Outcome.ALONE) else set()
    texts = [f"{way} (where nothing ran)" if id(way) in nothing else str(way) for way in jumps]
    texts += [f"{way} (where nothing ran)" for way in selections[:limit] if id(way) in nothing]
    texts += [f"{way} (not tried)" for way in selections[limit:]]
    return replace(found, avoided=(*decided, *texts))


def _parts(auditor: Auditor, models: Models, way: OtherWay, outcomes: list[Outcome], ways: Sequence[OtherWay]) -> bool:
    """Whether two models differ where a way is gone, whichever of the other model's is gone with it."""
    shared = len(way.models) == 2
    if shared and (outcomes[0] is Outcome.ALONE or (way.jump.asks_part and outcomes[0] is Outcome.UNSHOWN)):
        return True  # one alone has something there, or nothing that the code could use, and the two are not built alike
    if Outcome.DIFFERENT not in outcomes:
        return shared and not is_one_condition(way.jump, models) and _parts_alone(auditor, models, way)
    others = [
        other
        for other in ways
        if not shared and other.models == (1 - way.models[0],) and name_the_same(other.jump, way.jump)
    ]
    return all(outcome_of(auditor, models, way, other) is not Outcome.SAME for other in islice(others, _TOGETHER))


def _parts_alone(auditor: Auditor, models: Models, way: OtherWay) -> bool:
    """Whether two models differ where a way is gone in one of them: what it asks may hold in that one alone."""
    alone = (replace(way, models=(which,)) for which in way.models)  # type: ignore[type-var]
    return any(outcome_of(auditor, models, one) is Outcome.DIFFERENT for one in alone)


def _with_next(auditor: Auditor, way: OtherWay) -> Iterator[OtherWay]:
    """Yield a way alone, and with the jumps that come next and that no run reached, as in `a == 57 and b == 58`."""
    yield way
    if not isinstance(way, Way):
        return
    reached, target = auditor.log.coverage[way.models[0]].reached, way.target
    for jump in jumps_of(way.jump.code):
        if jump.offset >= target and len(way.then) < _CHAIN - 1:
            if jump in reached or jump.offset - target > _NEAR:
                break
            way = replace(way, then=(*way.then, jump))
            yield way
            target = jump.offset
