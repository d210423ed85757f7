"""`python -m benchmarks names`: keys of real pairs matched by names and shapes alone, beside the peers that do so.

A key is right if its value is the truth's, whichever way that is written. No model is built: the key trees lie in data/.
"""

import signal
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import Pool
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.names_data import NamedPair, Tree, read
from benchmarks.names_peers import PEERS
from benchmarks.output import progress, write_json
from fxmap.expressions.base import Expression, Source
from fxmap.expressions.layout import Reshape
from fxmap.matching.keys.mapper import map_by_name

OURS = "fxmap"
_NOT_INSTALLED = "not installed"


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


def command(
    mappers: Annotated[str, typer.Option(help="Only these, separated by commas; fxmap is one of them.")] = "",
    only: Annotated[str, typer.Option(help="Only pairs whose name contains this.")] = "",
    packages: Annotated[list[Path] | None, typer.Option(help="Folders with peers that are not installed.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Processor seconds that a mapper may take for a pair.")] = 60,
    jobs: Annotated[int, typer.Option(min=1, help="Pairs at a time, one thread each.")] = 1,
    json_file: Annotated[Path | None, typer.Option("--json", dir_okay=False, help="Write the rows to this file.")] = None,
) -> None:
    """Match the keys of real pairs by names and shapes alone, and count right and wrong keys beside the peers.

    Ends with exit code 1 if, in the totals of a group, a peer has more keys right at as many or fewer wrong.
    """
    known = [OURS, *PEERS]
    names = [name.strip() for name in mappers.split(",") if name.strip()] or known
    if strangers := [name for name in names if name not in known]:
        raise typer.BadParameter(f"{strangers[0]} is not a mapper; there are {', '.join(known)}", param_hint="--mappers")
    start = time.perf_counter()
    sys.path.extend(map(str, packages or []))
    pairs = [pair for pair in read() if only in pair.id]
    work = [(pair, name) for pair in pairs for name in names]
    with Pool(jobs, partial(torch.set_num_threads, 1)) as pool:
        ends = pool.imap(partial(_measured, limit=limit), work)
        rows: list[Row] = []
        for row in progress(ends, len(work), lambda row: f"{row.mapper}: {row.pair}"):
            rows.append(row)
            if json_file is not None and len(rows) % len(names) == 0:
                # After every pair: a run that is stopped is not lost.
                write_json(json_file, "names", [asdict(row) for row in rows], time.perf_counter() - start)
    beaten = _print(rows, names)
    if beaten:
        raise typer.Exit(1)


def _measured(task: tuple[NamedPair, str], limit: int) -> Row:
    return measure(*task, limit)


def measure(pair: NamedPair, mapper: str, limit: int = 60) -> Row:
    """Run one mapper on one pair, and judge every key."""
    start = time.process_time()
    refused = ""
    answers: dict[str, Any] = {}
    try:
        with _TimeLimit(limit):
            answers = dict(_ours(pair) if mapper == OURS else PEERS[mapper](pair.src, pair.dst))
    except ImportError as error:
        refused = f"{_NOT_INSTALLED} ({error})"
    except Exception as error:
        # A peer refuses a pair by whatever error it likes.
        refused = f"{type(error).__name__}: {str(error)[:200]}"
    seconds = time.process_time() - start
    right, wrong, left = judge(pair, answers)
    return Row(mapper, pair.id, pair.group, right, wrong, left, seconds, refused)


def _ours(pair: NamedPair) -> dict[str, Expression]:
    return dict(map_by_name(_meta(pair.src), _meta(pair.dst), "names alone"))


def _meta(tree: Tree) -> dict[str, Tensor]:
    return {
        key: torch.empty(shape, dtype=getattr(torch, dtype.removeprefix("torch.")), device="meta")
        for key, shape, dtype in tree
    }


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
    if op in ("cat", "stack"):
        return list(rest[1:])
    if op in ("zeros", "ones", "full"):
        return []
    if op in ("foldw", "foldb", "add", "mul", "mm"):
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
            return made[0].chunk(rest[2], rest[3])[rest[1]]
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


def _print(rows: list[Row], names: list[str]) -> list[str]:
    """Print the table of totals; return which peers are better somewhere."""
    totals: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for row in rows:
        for group in (row.group, "all"):
            total = totals[group, row.mapper]
            for place, value in enumerate((row.right, row.wrong, row.left, not row.wrong and not row.left)):
                total[place] += value
    groups = [*sorted({row.group for row in rows}), "all"]
    table = Table(title="keys right / wrong / open (pairs all right)")
    table.add_column("mapper")
    for group in groups:
        table.add_column(
            f"{group} ({len({row.pair for row in rows if group in (row.group, 'all')})} pairs)", justify="right"
        )
    table.add_column("seconds, longest", justify="right")
    for name in names:
        own = [row for row in rows if row.mapper == name]
        if all(row.refused.startswith(_NOT_INSTALLED) for row in own):
            table.add_row(name, own[0].refused, *[""] * len(groups))
            continue
        cells = ["{} / {} / {} ({})".format(*totals[group, name]) for group in groups]
        table.add_row(name, *cells, f"{max(row.seconds for row in own):.1f}")
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    beaten = [
        f"{name} on {group}"
        for group in groups
        for name in names
        if OURS in names
        and totals[group, name][0] > totals[group, OURS][0]
        and totals[group, name][1] <= totals[group, OURS][1]
    ]
    print(f"better at as many or fewer wrong: {', '.join(beaten) or 'none'}")
    return beaten
