"""Run mappers on a case, each in a process of its own with a time limit, and judge what they make."""

import gc
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch

from benchmarks.accuracy.cases import Case, cases
from benchmarks.accuracy.mappers import MAPPERS, Mapper
from benchmarks.accuracy.problems import Answer, Problem
from benchmarks.common.workers import run_one
from benchmarks.names import measure as names
from benchmarks.names.data import NamedPair
from benchmarks.registry.compat import install_pkg_resources

NOT_INSTALLED = "not installed"
# Imports and judging, which are not the mapper's time.
_MORE_SECONDS = 120.0


@dataclass
class Row:
    """What one mapper made of one case.

    Of the judged keys so many are right, wrong (made, with another value) or missing. `equal` says whether the function is
    right, None where no model is at hand; `claim` whether the mapper says so, None if it says nothing; `false_claims` is
    what it is certain of and is not so: "function", and keys. `seconds` are of the processor, `peak_mb` is memory beyond
    that of the two models. `size` is the number of the destination's keys. `failure` says why there is no answer,
    `not_run` why the case could not be built.
    """

    group: str
    case: str
    mapper: str
    size: int = 0
    keys: int = 0
    right: int = 0
    wrong: int = 0
    missing: int = 0
    equal: bool | None = None
    claim: bool | None = None
    false_claims: tuple[str, ...] = ()
    seconds: float | None = None
    peak_mb: int = 0
    failure: str = ""
    not_run: str = ""

    @property
    def installed(self) -> bool:
        """Whether the mapper's packages are there."""
        return self.failure != NOT_INSTALLED


@cache
def _cases() -> dict[str, Case]:
    return cases()


def run_case(name: str, *, mappers: tuple[str, ...], seconds: float) -> Iterator[Row]:
    """Build a case once, and yield what each mapper makes of it."""
    install_pkg_resources()
    torch.backends.mha.set_fastpath_enabled(False)  # it approximates the tanh of a GELU
    yield from run_mappers(_cases()[name], mappers, seconds)


def run_mappers(case: Case, mappers: tuple[str, ...], seconds: float) -> Iterator[Row]:
    """Yield what each mapper makes of a case; one that fails, or takes too long, leaves every key as it is."""
    try:
        problem = case.build()
        nothing = _judged(problem, Answer({}))
    except Exception as error:  # a package that is absent, or does not work with the others that are there
        for mapper in mappers:
            yield Row(case.group, case.name, mapper, not_run=f"{type(error).__name__}: {error}")
        return
    # The garbage collector of a process would touch, and so copy, what it shares with this one.
    gc.freeze()
    for mapper in mappers:
        if isinstance(problem, NamedPair) and MAPPERS[mapper].trees is None:
            continue
        ended = run_one(partial(_answered, problem), MAPPERS[mapper], seconds + _MORE_SECONDS)
        found: dict[str, Any] = ended.results[0] if ended.results else {"failure": ended.failure}
        if (found.get("seconds") or 0) > seconds:
            found = {"failure": f"more than {seconds:g} s", "seconds": found["seconds"], "peak_mb": found["peak_mb"]}
        yield Row(case.group, case.name, mapper, **(nothing | found))


def _answered(problem: Problem | NamedPair, mapper: Mapper) -> Iterator[dict[str, Any]]:
    """Ask a mapper, and judge its answer, in a process that has just begun."""
    try:
        mapper.load()
    except Exception:  # a package that is absent, or too old for the others
        yield {"failure": NOT_INSTALLED}
        return
    before, start = _peak(), time.process_time()
    answer, failure = Answer({}), ""
    try:
        answer = _asked(problem, mapper)
    except Exception as error:  # a mapper refuses by whatever error it likes
        failure = f"{type(error).__name__}: {str(error)[:200]}"
    found = {"seconds": time.process_time() - start, "peak_mb": _peak() - before, "failure": failure}
    yield found | ({} if failure else _judged(problem, answer))


def _asked(problem: Problem | NamedPair, mapper: Mapper) -> Answer:
    if isinstance(problem, NamedPair):
        assert mapper.trees is not None
        return Answer(dict(mapper.trees(problem.src, problem.dst)))
    assert mapper.run is not None
    return mapper.run(problem)


def _judged(problem: Problem | NamedPair, answer: Answer) -> dict[str, Any]:
    if isinstance(problem, NamedPair):
        right, wrong, left = names.judge(problem, dict(answer.made))
        return {"size": len(problem.dst), "keys": right + wrong + left, "right": right, "wrong": wrong, "missing": left}
    verdict = problem.judge(answer.made)
    false = [key for key in verdict.wrong if key in answer.certain]
    if answer.equal and not verdict.equal:
        false.insert(0, "function")
    return {
        "size": problem.size,
        "keys": verdict.right + len(verdict.wrong) + len(verdict.missing),
        "right": verdict.right,
        "wrong": len(verdict.wrong),
        "missing": len(verdict.missing),
        "equal": verdict.equal,
        "claim": answer.equal,
        "false_claims": tuple(false),
    }


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
