"""`python -m benchmarks speed`: what each stage costs, and how it grows.

Seconds are those of one thread on the CPU, which neighbours disturb less than the clock. The floor beside them is what
nobody can do without: building the two models, one forward pass, load_state_dict. Exponents are fitted to the generated
networks: seconds = c * operations ** exponent, by least squares of the logarithms.
"""

import math
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import fxmap
from benchmarks.common.output import progress, write_json
from benchmarks.common.workers import run_all
from benchmarks.registry import PAIRS
from fxmap.cli.tables import print_table
from fxmap.testing.generated import OPS_A_BLOCK, Decoder, JoinedDecoder, Residual, Shuffled

# As `mapping.trace` calls them. Seconds are those of this process on the CPU; a stage inside another is not counted twice.
STAGES = ("capture", "build", "normalise", "align", "search", "derive", "prove")
WIDTH = 180  # of the table where the output is no terminal
SIZES = (1_000, 2_000, 5_000, 10_000, 20_000)
LARGE_SIZES = (*SIZES, 50_000, 100_000)
QUICK_SIZES = (1_000, 2_000, 5_000)

# Of the registry, from small to large.
REAL = (
    "torchvision:resnet18->timm:resnet18",
    "torchvision:densenet121->timm:densenet121",
    "timm:resnet50->pytorchcv:resnet50b",
    "torchvision:swin_t->timm:swin_tiny",
    "torchvision:wide_resnet50_2->timm:wide_resnet50_2",
    "torchvision:vit_b_16->timm:vit_base_patch16_224",
)
QUICK_REAL = REAL[:1]
# What nobody can do without, and the column of a row that says what it took.
FLOOR = {
    "building both models": "seconds_build",
    "one forward pass": "seconds_forward",
    "load_state_dict": "seconds_load",
}
META = "llama-70b on the meta device"
# The sizes of Llama 2 and 3 with 70 billion parameters.
LLAMA_70B = {"layers": 80, "width": 8192, "heads": 64, "groups": 8, "hidden": 28672, "vocabulary": 128256}


@dataclass
class Row:
    """What was measured of one case. `peak_mb` is the process's, of which `base_mb` before anything was built."""

    name: str
    kind: str
    operations: int = 0
    params: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    seconds_map: float | None = None
    seconds_clock: float | None = None
    seconds_build: float | None = None
    seconds_forward: float | None = None
    seconds_load: float | None = None
    mapped: int = 0
    missing: int = 0
    proof_ok: bool | None = None
    peak_mb: int = 0
    base_mb: int = 0
    failure: str = ""


def command(
    quick: Annotated[bool, typer.Option("--quick", help="Small networks only, in about a minute.")] = False,
    large: Annotated[
        bool, typer.Option("--large", help="Generated networks up to 100,000 operations: half an hour.")
    ] = False,
    sizes: Annotated[str, typer.Option(help="Operations of the generated networks, separated by commas.")] = "",
    real: Annotated[bool, typer.Option(help="Real models.")] = True,
    meta: Annotated[bool, typer.Option(help="A model of 70 billion parameters on the meta device.")] = True,
    seconds: Annotated[float, typer.Option(min=1, help="Time limit of one case.")] = 1200,
    json_file: Annotated[Path | None, typer.Option("--json", dir_okay=False, help="Write the rows to this file.")] = None,
) -> None:
    """Time capture, normalising, alignment, derivation and proof, on real models and on networks of growing size."""
    chosen = (
        [int(size) for size in sizes.split(",")]
        if sizes
        else list(QUICK_SIZES if quick else LARGE_SIZES if large else SIZES)
    )
    tasks = [f"generated {size}" for size in chosen]
    tasks += (QUICK_REAL if quick else REAL) if real else ()
    tasks += [META] if meta and not quick else []
    start = time.perf_counter()
    rows: list[Row] = []
    ends = run_all(measure, tasks, seconds=seconds, preload=("torch", "fxmap"))
    for ended in progress(ends, len(tasks), lambda ended: ended.task):
        rows += ended.results or [Row(ended.task, "failed", failure=ended.failure)]
        if json_file is not None:
            write_json(json_file, "speed", rows_of(rows), time.perf_counter() - start, exponents=exponents(rows))
    rows.sort(key=lambda row: tasks.index(row.name))
    _print(rows, time.perf_counter() - start)


def rows_of(rows: list[Row]) -> list[dict[str, Any]]:
    """Return the rows as plain dicts."""
    return [asdict(row) for row in rows]


def measure(task: str) -> Iterator[Row]:
    """Measure one case, in a process of its own."""
    if task == META:
        yield _meta(task)
    elif task.startswith("generated "):
        blocks = max(int(task.split()[1]) // OPS_A_BLOCK, 1)
        yield _measured(
            Row(task, "generated"), lambda: Residual(blocks, 0), lambda: Shuffled(blocks, 0), (torch.randn(4, 8),)
        )
    else:
        pair = PAIRS[task]
        yield _measured(Row(task, "real"), pair.src, pair.dst, pair.inputs())


def _measured(
    row: Row, src_build: Callable[[], nn.Module], dst_build: Callable[[], nn.Module], inputs: tuple[Tensor, ...]
) -> Row:
    row.base_mb = _peak()
    (src, dst), row.seconds_build = _timed(lambda: (src_build(), dst_build()))
    src.eval()
    dst.eval()
    row.params = round(sum(parameter.numel() for parameter in src.parameters()) / 1e6, 2)
    with torch.no_grad():
        src(*inputs)
        row.seconds_forward = _timed(lambda: src(*inputs))[1]
    state = src.state_dict()
    row.seconds_load = _timed(lambda: src.load_state_dict(state))[1]
    _map(row, src, dst, inputs, verify=True)
    row.peak_mb = _peak()
    return row


def _meta(task: str) -> Row:
    row = Row(task, "meta", base_mb=_peak())
    with torch.device("meta"):
        (src, dst), row.seconds_build = _timed(lambda: (Decoder(**LLAMA_70B), JoinedDecoder(**LLAMA_70B)))
        tokens = torch.zeros(1, 8, dtype=torch.long)
    row.params = round(sum(parameter.numel() for parameter in src.parameters()) / 1e6, 2)
    _map(row, src, dst, (tokens,), verify=False)
    row.peak_mb = _peak()
    return row


def _map(row: Row, src: nn.Module, dst: nn.Module, inputs: tuple[Tensor, ...], *, verify: bool) -> None:
    start = time.perf_counter()
    try:
        mapping, total = _timed(lambda: fxmap.auto_map(src, dst, example_inputs=inputs, verify=verify))
    except Exception as error:  # a result of the benchmark, and told as one
        row.failure = f"{type(error).__name__}: {error}"
        return
    row.seconds_clock = time.perf_counter() - start
    took = mapping.trace.seconds()
    row.seconds, row.operations = {name: took.get(name, 0.0) for name in STAGES}, mapping.trace.operations
    row.seconds_map = total - row.seconds["prove"]
    row.mapped, row.missing = len(mapping), len(mapping.missing)
    row.proof_ok = mapping.proof.ok if mapping.proof is not None else None


def exponents(rows: list[Row]) -> dict[str, float]:
    """Fit the exponent of every stage, of everything after capture, and of the floor, to the generated networks.

    >>> rows = [Row("", "generated", n, seconds={"align": n * 2.0}) for n in (10, 100, 1000)]
    >>> round(exponents(rows)["align"], 3)
    1.0
    """
    measured = [row for row in rows if row.kind == "generated" and row.seconds]
    found = {}
    for stage in STAGES:
        points = [(row.operations, row.seconds.get(stage, 0.0)) for row in measured]
        found[stage] = _slope(points)
    after = [stage for stage in STAGES if stage not in ("capture", "build", "prove")]
    found["all after capture, without proof"] = _slope(
        [(row.operations, sum(row.seconds.get(stage, 0.0) for stage in after)) for row in measured]
    )
    for floor, column in FLOOR.items():
        found[floor] = _slope([(row.operations, getattr(row, column) or 0.0) for row in measured])
    return {stage: slope for stage, slope in found.items() if slope is not None}


def _slope(points: list[tuple[int, float]]) -> float | None:
    logs = [(math.log(size), math.log(seconds)) for size, seconds in points if seconds > 0]
    if len({size for size, _ in logs}) < 2:
        return None
    return statistics.linear_regression(*zip(*logs, strict=True)).slope


def _print(rows: list[Row], took: float) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    table = Table(title="seconds of each stage, beside the floor", pad_edge=False)
    titles = (
        *("case", "M params", "operations"),
        *STAGES,
        *(
            "map,\nno proof",
            "with proof,\nclock",
            "build\nboth",
            "one\nforward",
            "load_\nstate_dict",
            "map /\nbuild",
            "mapped",
            "missing",
            "peak MB",
        ),
    )
    for title in titles:
        table.add_column(title, justify="left" if title == "case" else "right", overflow="fold")
    for row in rows:
        if row.failure:
            table.add_row(row.name, "[red]failed[/red]")
            continue
        table.add_row(
            row.name,
            f"{row.params:.1f}",
            str(row.operations),
            *(_number(row.seconds.get(stage)) for stage in STAGES),
            *(_number(value) for value in (row.seconds_map, row.seconds_clock, row.seconds_build)),
            *(_number(value) for value in (row.seconds_forward, row.seconds_load)),
            _number((row.seconds_map or 0) / row.seconds_build if row.seconds_build else None),
            str(row.mapped),
            str(row.missing),
            f"{row.peak_mb} ({row.peak_mb - row.base_mb} more)",
        )
    print_table(console, table)
    for row in rows:
        if row.failure:
            console.print(f"{row.name}: {row.failure}", markup=False, highlight=False)
    for stage, slope in exponents(rows).items():
        console.print(f"exponent of {stage}: {slope:.2f}", markup=False, highlight=False)
    console.print(f"{took:.0f} s in all")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}" if value < 1 else f"{value:.2f}"


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _timed(function: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    return function(), time.process_time() - start
