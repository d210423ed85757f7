"""One mapper of names on one pair: a key is right if its value is the truth's, whichever way that is written."""

import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.names.data import CONSTANTS, JOINS, SUMS, NamedPair, without_numbers
from benchmarks.names.peers import PEERS
from fxmap.expressions.base import Expression, Source
from fxmap.expressions.layout import Reshape
from fxmap.matching.keys.mapper import map_by_name

OURS = "fxmap"
NOT_INSTALLED = "not installed"


@dataclass(frozen=True)
class Row:
    """What one mapper made of one pair: judged keys right, wrong, and left open; `refused` says why it gave nothing."""

    mapper: str
    pair: str
    group: str
    right: int
    wrong: int
    left: int
    seconds: float
    refused: str = ""


def measure(pair: NamedPair, mapper: str, limit: int = 60) -> Row:
    """Run one mapper on one pair, and judge every key."""
    start = time.process_time()
    refused = ""
    answers: dict[str, Any] = {}
    try:
        with _TimeLimit(limit):
            answers = dict(_ours(pair) if mapper == OURS else PEERS[mapper](pair.src, pair.dst))
    except ImportError as error:
        refused = f"{NOT_INSTALLED} ({error})"
    except Exception as error:
        # A peer refuses a pair by whatever error it likes.
        refused = f"{type(error).__name__}: {str(error)[:200]}"
    seconds = time.process_time() - start
    right, wrong, left = judge(pair, answers)
    return Row(mapper, pair.id, pair.group, right, wrong, left, seconds, refused)


def _ours(pair: NamedPair) -> dict[str, Expression]:
    return dict(map_by_name(without_numbers(pair.src), without_numbers(pair.dst), "names alone"))


class _TimeLimit:
    """Raises TimeoutError inside the block after some seconds of the processor: what else runs is no fault of a mapper."""

    def __init__(self, seconds: int) -> None:
        self.seconds = seconds

    def __enter__(self) -> None:
        def stop(*_: object) -> None:
            raise TimeoutError(f"more than {self.seconds} s")

        signal.signal(signal.SIGPROF, stop)
        signal.setitimer(signal.ITIMER_PROF, self.seconds)

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)


def judge(pair: NamedPair, answers: dict[str, Any]) -> tuple[int, int, int]:
    """Count the judged keys that are right, wrong and left out. An answer is a source key, or an expression of fxmap."""
    right = wrong = left = 0
    for (key, _, _), truth in zip(pair.dst, pair.relations, strict=True):
        if truth is False:
            continue
        answer = answers.get(key)
        if answer is None:
            left += truth is not None
        elif truth is not None and _equal(pair, answer, truth):
            right += 1
        else:
            wrong += 1
    return right, wrong, left


def _equal(pair: NamedPair, answer: Any, truth: Any) -> bool:
    """Compare by values, in a source whose elements are all different; a tied tensor has one value."""
    number = {key: n for n, (key, _, _) in enumerate(pair.src)}
    tied = {n: group[0] for group in pair.tied for n in group}
    renamed = _renamed(answer)
    if renamed is not None and isinstance(truth, int):
        n = number[renamed]
        return tied.get(n, n) == tied.get(truth, truth)
    expression = Source(answer) if isinstance(answer, str) else answer
    if isinstance(truth, int) or {tied.get(n, n) for n in _numbers(truth)} != {
        tied.get(number[key], number[key]) for key in expression.sources()
    }:
        return False
    state = {key: _elements(tied.get(n, n), shape) for n, (key, shape, _) in enumerate(pair.src)}
    expected = _evaluate(truth, lambda n: state[pair.src[n][0]])
    made = expression.evaluate(state)
    return expected is not None and made.shape == expected.shape and torch.equal(made, expected)


def _renamed(answer: Any) -> str | None:
    if isinstance(answer, Reshape):
        answer = answer.of
    return answer.key if isinstance(answer, Source) else answer if isinstance(answer, str) else None


def _elements(number: int, shape: list[int]) -> Tensor:
    return torch.arange(torch.Size(shape).numel(), dtype=torch.int64).reshape(shape) + (number << 36)


def _numbers(truth: Any) -> Iterator[int]:
    """Yield the source keys that a truth reads."""
    if isinstance(truth, int):
        yield truth
    else:
        for operand in _operands(truth):
            yield from _numbers(operand)


def _operands(truth: list[Any]) -> list[Any]:
    op, *rest = truth
    if op in JOINS:
        return list(rest[1:])
    if op in CONSTANTS:
        return []
    if op in SUMS:
        return [part for part in rest if part is not None and not isinstance(part, float)]
    return [rest[0]]


def _evaluate(truth: Any, source: Any) -> Tensor | None:
    """Make a truth that only moves elements; None for one that computes with them, which names cannot know."""
    if isinstance(truth, int):
        tensor: Tensor = source(truth)
        return tensor
    op, *rest = truth
    inner = [_evaluate(part, source) for part in _operands(truth)]
    made = [part for part in inner if part is not None]
    if len(made) < len(inner) or not made:
        return None
    match op:
        case "cat":
            return torch.cat(made, rest[0])
        case "chunk":
            return made[0].chunk(rest[2], rest[3])[rest[1]]  # type: ignore[no-any-return]
        case "slice":
            return made[0].narrow(rest[1], rest[2], rest[3] - rest[2])
        case "t":
            return made[0].transpose(0, 1)
        case "view":
            return made[0].reshape(rest[1])
        case "idx":
            return made[0].index_select(rest[1], torch.tensor(rest[2]))
        case _:
            return None
