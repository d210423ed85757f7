"""`python -m benchmarks speed`: what each stage costs, and how it grows.

Seconds are those of one thread on the CPU, which neighbours disturb less than the clock. The floor beside them is what
nobody can do without: building the two models, one forward pass, load_state_dict. What Python imports for a first mapping is
not counted. Exponents are fitted to the generated networks: seconds = c * operations ** exponent, by least squares of the
logarithms.
"""

import copy
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
    "transformers:resnet50->torchvision:resnet50",
    "torchvision:swin_t->timm:swin_tiny",
    "torchvision:convnext_tiny->timm:convnext_tiny",
    "torchvision:wide_resnet50_2->timm:wide_resnet50_2",
    "torchvision:vit_b_16->timm:vit_base_patch16_224",
)
BERT = "transformers:bert-base->itself"
QUICK_REAL = REAL[:1]
# What nobody can do without, and the column of a row that says what it took.
FLOOR = {
    "building both models": "seconds_build",
    "one forward pass": "seconds_forward",
    "load_state_dict": "seconds_load",
}
META = "llama-70b on the meta device"
# What is asked: a mapping of so many forwards of both models in float32, and of so many seconds more; a proof of so many
# forwards of the larger model in float64.
FORWARDS, SECONDS, PROOF_FORWARDS = 2.0, 0.3, 14.0
# The sizes of Llama 2 and 3 with 70 billion parameters.
LLAMA_70B = {"layers": 80, "width": 8192, "heads": 64, "groups": 8, "hidden": 28672, "vocabulary": 128256}


@dataclass
class Row:
    """What was measured of one case.

    `peak_mb` is the process's, of which `base_mb` before anything was built. `seconds_forward` is that of the source,
    `seconds_both` of both models in float32, and `seconds_double` of the slower one in float64.
    """

    name: str
    kind: str
    operations: int = 0
    params: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    seconds_map: float | None = None
    seconds_clock: float | None = None
    seconds_build: float | None = None
    seconds_forward: float | None = None
    seconds_both: float | None = None
    seconds_double: float | None = None
    seconds_load: float | None = None
    mapped: int = 0
    missing: int = 0
    proof_ok: bool | None = None
    peak_mb: int = 0
    base_mb: int = 0
    failure: str = ""

    @property
    def map_forwards(self) -> float | None:
        """The mapping in forwards of both models, without the seconds that it may take beside them."""
        if not self.seconds_both or self.seconds_map is None:
            return None
        return max(self.seconds_map - SECONDS, 0.0) / self.seconds_both

    @property
    def proof_forwards(self) -> float | None:
        """The proof in forwards of the larger model in float64."""
        return self.seconds["prove"] / self.seconds_double if self.seconds_double and "prove" in self.seconds else None


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
    tasks += (QUICK_REAL if quick else (*REAL, BERT)) if real else ()
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
    elif task == BERT:
        yield _measured(Row(task, "real"), _bert, _bert, (torch.arange(16).reshape(1, 16),))
    else:
        pair = PAIRS[task]
        yield _measured(Row(task, "real"), pair.src, pair.dst, pair.inputs())


def _warm_up() -> None:
    """Map and prove a small model, traced and recorded, so that what is imported for that counts as importing."""
    for reads in (False, True):
        fxmap.auto_map(_Small("a", reads), _Small("b", reads), example_inputs=torch.randn(2, 4))


class _Small(nn.Module):
    """A layer under a given name, which no trace passes where it `reads` a number."""

    def __init__(self, name: str, reads: bool) -> None:
        super().__init__()
        self.name, self.reads = name, reads
        self.add_module(name, nn.Linear(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        """Run the layer."""
        return x if self.reads and float(x.sum()) > 1e9 else self.get_submodule(self.name)(x)


def _bert() -> nn.Module:
    import transformers

    model: nn.Module = transformers.BertModel(transformers.BertConfig())
    return model


def _measured(
    row: Row, src_build: Callable[[], nn.Module], dst_build: Callable[[], nn.Module], inputs: tuple[Tensor, ...]
) -> Row:
    _warm_up()
    row.base_mb = _peak()
    (src, dst), row.seconds_build = _timed(lambda: (src_build(), dst_build()))
    src.eval()
    dst.eval()
    row.params = round(sum(parameter.numel() for parameter in src.parameters()) / 1e6, 2)
    row.seconds_forward = _forward(src, inputs)
    row.seconds_both = row.seconds_forward + _forward(dst, inputs)
    row.seconds_double = max(_doubled(model, inputs) for model in (src, dst))
    state = src.state_dict()
    row.seconds_load = _timed(lambda: src.load_state_dict(state))[1]
    _map(row, src, dst, inputs, verify=True)
    row.peak_mb = _peak()
    return row


def _forward(model: nn.Module, inputs: tuple[Tensor, ...]) -> float:
    """Return the seconds of a forward pass: the median of three, after one that nobody counts."""
    with torch.no_grad():
        model(*inputs)
        return statistics.median(_timed(lambda: model(*inputs))[1] for _ in range(3))


def _doubled(model: nn.Module, inputs: tuple[Tensor, ...]) -> float:
    wide = copy.deepcopy(model).double()
    return _forward(wide, tuple(value.double() if value.is_floating_point() else value for value in inputs))


def _meta(task: str) -> Row:
    _warm_up()
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
    row.proof_ok = mapping.proof.ok


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
            f"map - {SECONDS:g} s,\nforwards",
            "proof,\nforwards",
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
            _number(row.map_forwards),
            _number(row.proof_forwards),
            str(row.mapped),
            str(row.missing),
            f"{row.peak_mb} ({row.peak_mb - row.base_mb} more)",
        )
    print_table(console, table)
    for row in rows:
        if row.failure:
            console.print(f"{row.name}: {row.failure}", markup=False, highlight=False)
    _print_aims(console, rows)
    for stage, slope in exponents(rows).items():
        console.print(f"exponent of {stage}: {slope:.2f}", markup=False, highlight=False)
    console.print(f"{took:.0f} s in all")


def _print_aims(console: Console, rows: list[Row]) -> None:
    real = [row for row in rows if row.kind == "real" and row.map_forwards is not None]
    mapped = [row for row in real if (row.map_forwards or 0) <= FORWARDS]
    proven = [row for row in real if (row.proof_forwards or 0) <= PROOF_FORWARDS]
    console.print(
        f"of {len(real)} real models {len(mapped)} are mapped in {FORWARDS:g} forwards of both and {SECONDS:g} s, and "
        f"{len(proven)} proven in {PROOF_FORWARDS:g} forwards of the larger one in float64"
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}" if value < 1 else f"{value:.2f}"


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _timed(function: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    return function(), time.process_time() - start
