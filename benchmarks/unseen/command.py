"""`python -m benchmarks unseen`: pairs of networks in random spellings; how many are mapped so that both compute the same.

The judge loads what the mapping makes into the destination and runs both models in float64, and compares every key with the
planted truth. The floor beside it is structure and search alone, without solving for weights.
"""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from torch import Tensor, nn

import fxmap
from benchmarks.common.output import progress, write_json
from benchmarks.common.workers import run_all
from benchmarks.unseen.networks import Unseen

EQUAL = 1e-6


@dataclass
class Row:
    """What was found for one pair."""

    seed: int
    layers: str
    equal: bool = False
    floor: bool = False
    keys: int = 0
    right: int = 0
    wrong_proven: int = 0
    ok: bool = False
    seconds: float = 0.0
    failure: str = ""


def command(
    count: Annotated[int, typer.Option(min=1, help="Number of pairs.")] = 100,
    first: Annotated[int, typer.Option(help="The first seed; the others follow it.")] = 0,
    jobs: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    seconds: Annotated[float, typer.Option(min=1, help="Time limit of one pair.")] = 300,
    json_file: Annotated[Path | None, typer.Option("--json", dir_okay=False, help="Write the rows to this file.")] = None,
) -> None:
    """Map pairs of networks whose layers are spelled at random, and judge functions and keys."""
    tasks = [str(seed) for seed in range(first, first + count)]
    start = time.perf_counter()
    rows: list[Row] = []
    for ended in progress(run_all(measure, tasks, seconds=seconds, jobs=jobs, preload=("torch", "fxmap")), count, _title):
        rows += ended.results or [Row(int(ended.task), "", failure=ended.failure)]
        if json_file is not None:
            write_json(json_file, "unseen", [asdict(row) for row in rows], time.perf_counter() - start)
    show(sorted(rows, key=lambda row: row.seed))


def _title(ended: object) -> str:
    return str(getattr(ended, "task", ""))


def measure(task: str) -> Iterator[Row]:
    """Map and judge one pair."""
    pair = Unseen.drawn(int(task))
    row = Row(int(task), str(pair))
    start = time.process_time()
    try:
        mapping = fxmap.auto_map(pair.src, pair.dst, example_inputs=pair.inputs)
    except Exception as error:  # a result of the benchmark, and told as one
        row.failure = f"{type(error).__name__}: {error}"
        yield row
        return
    row.seconds = round(time.process_time() - start, 2)
    judge(row, pair, mapping)
    row.floor = _equal(pair, fxmap.auto_map(pair.src, pair.dst, example_inputs=pair.inputs, verify=False))
    yield row


def judge(row: Row, pair: Unseen, mapping: fxmap.KeyMapping) -> None:
    """Judge a mapping by the function that it makes, and key by key."""
    state = pair.src.state_dict()
    truth, made = pair.truth(state), _made(mapping, state)
    right = [key for key, value in truth.items() if key in made and _same(made[key], value)]
    row.keys, row.right, row.ok = len(truth), len(right), mapping.proof.ok
    row.wrong_proven = sum(mapping.status(key) is fxmap.Status.PROVEN for key in truth.keys() - set(right))
    row.equal = _equal(pair, mapping)


def _made(mapping: fxmap.KeyMapping, state: dict[str, Tensor]) -> dict[str, Tensor]:
    try:
        return dict(mapping.apply(state))
    except fxmap.FxmapError:
        return {}


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool(torch.allclose(one, other, rtol=1e-4, atol=1e-5))


def _equal(pair: Unseen, mapping: fxmap.KeyMapping) -> bool:
    """Whether the destination, in float64, returns what the source does."""
    src, dst = _double(pair.src, {}), _double(pair.dst, {})
    made = _made(mapping, dict(src.state_dict()))
    own = dst.state_dict()
    if any(made[key].shape != own[key].shape for key in made):
        return False
    dst.load_state_dict({**own, **made})
    x = torch.randn(3, *pair.inputs.shape[1:], dtype=torch.float64)
    with torch.no_grad():
        ours, theirs = src(x), dst(x)
    return bool((ours - theirs).abs().max() <= EQUAL * ours.abs().max())


def _double(model: nn.Module, memo: dict[int, object]) -> nn.Module:
    from copy import deepcopy

    return deepcopy(model, memo).double().eval()


def show(rows: list[Row]) -> None:
    """Print the pairs that are not equal, and the figures."""
    console = Console(width=180)
    for row in rows:
        if not row.equal:
            why = row.failure or f"{row.right} of {row.keys} keys right"
            console.print(f"{row.seed}: {row.layers}: {why}, {row.seconds:.1f} s", markup=False, highlight=False)
    total = max(len(rows), 1)
    equal, floor = sum(row.equal for row in rows), sum(row.floor for row in rows)
    console.print(
        f"function-equal {equal} of {len(rows)} ({equal / total:.0%}); floor, without solving: {floor} ({floor / total:.0%})"
    )
    console.print(
        f"keys right {sum(row.right for row in rows)} of {sum(row.keys for row in rows)}, "
        f"wrong and proven {sum(row.wrong_proven for row in rows)}, proof ok {sum(row.ok for row in rows)}"
    )
