"""`python -m benchmarks forms`: every quantizable model of torchvision, filled in every form, against references.

Weights are drawn at random, and deep random networks amplify noise: the SQNR of int8 is far below that of a trained model,
and says something only beside the reference's. A proof of MobileNetV2 is not ok for good reason: torchvision's quantizable
model has ReLU where the float model has ReLU6.
"""

import gc
import importlib
import importlib.util
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.common.output import progress, write_json
from benchmarks.forms import measure_layers
from benchmarks.forms.measure import PAIRS, Row, measure, subject
from fxmap.cli.tables import print_table
from fxmap.testing.recipes.models import MODELS

QUICK_MODELS = ("shufflenet_v2_x0_5", "resnet18")
QUICK_FORMS = ("quantizable", "fused", "fused-qat", "prepared", "qat", "int8-channel", "int8-tensor", "dynamic")
WIDTH = 180  # of the table where the output is no terminal


def command(
    models: Annotated[str, typer.Option(help="Only these models, separated by commas.")] = "",
    forms: Annotated[str, typer.Option(help="Only these forms, separated by commas.")] = "",
    quick: Annotated[bool, typer.Option("--quick", help="Two small models and the main forms, in under a minute.")] = False,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch: one, where the cores are shared.")] = 1,
    json_file: Annotated[Path | None, typer.Option("--json", dir_okay=False, help="Write the rows to this file.")] = None,
) -> None:
    """Fill every quantized form of torchvision's quantizable models, and compare with independent references.

    Ends with exit code 1 if a key or an output is not as its reference.
    """
    every = (*MODELS, measure_layers.LAYERS)
    names = _chosen(models, every, QUICK_MODELS if quick else every, "model")
    known = (*PAIRS, *measure_layers.FORMS)
    kinds = _chosen(forms, known, QUICK_FORMS if quick else (*default_forms(), *measure_layers.FORMS), "form")
    if json_file is not None and not json_file.parent.is_dir():
        raise typer.BadParameter(f"{json_file.parent} is not a directory", param_hint="--json")
    torch.set_num_threads(threads)
    proof = can_prove()
    start = time.perf_counter()
    rows = _measured(names, kinds, proof)
    seconds = time.perf_counter() - start
    _print(rows, seconds, proof)
    if json_file is not None:
        write_json(json_file, "forms", [asdict(row) | {"ok": row.ok} for row in rows], seconds)
    if not all(row.ok for row in rows):
        raise typer.Exit(1)


def default_forms() -> tuple[str, ...]:
    """Return the forms that can be built here, but those for which torchao takes minutes: PT2E prepared for QAT."""
    installed = importlib.util.find_spec("torchao") is not None
    return tuple(form for form in PAIRS if not form.startswith("pt2e-") or (installed and not form.endswith("-qat")))


def can_prove() -> bool:
    """Tell whether fxmap has its proof; without it the columns of the proof stay empty."""
    try:
        return hasattr(importlib.import_module("fxmap.prove.trial"), "prove")
    except ImportError:
        return False


def _chosen(text: str, known: Iterable[str], default: tuple[str, ...], what: str) -> tuple[str, ...]:
    known = list(known)
    names = tuple(name.strip() for name in text.split(",") if name.strip()) or default
    strangers = [name for name in names if name not in known]
    if strangers:
        raise typer.BadParameter(f"{strangers[0]} is not a {what}; there are {', '.join(known)}", param_hint=f"--{what}s")
    return names


def _measured(names: tuple[str, ...], kinds: tuple[str, ...], proof: bool) -> list[Row]:
    rows = [(name, kind) for name in names for kind in kinds if _has_row(name, kind)]

    def measured() -> Iterator[Row]:
        model = None
        for name, kind in rows:
            if measure_layers.applies(name, kind):
                yield measure_layers.measure(name, kind)
            else:
                model = model if model is not None and model.name == name else subject(name)
                yield measure(model, kind, proof=proof)
                # Models are cycles of references (hooks of observers), and large.
                gc.collect()

    return list(progress(measured(), len(rows), lambda row: f"{row.model} {row.form}"))


def _has_row(name: str, kind: str) -> bool:
    return measure_layers.applies(name, kind) or (name in MODELS and kind in PAIRS)


def _alarm(count: int) -> str:
    return f"[red]{count}[/red]" if count else "0"


def _equal(equal: bool | None) -> str:
    return "" if equal is None else "equal" if equal else "[red]differs[/red]"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _proven(row: Row) -> str:
    if row.proof_ok is None:
        return "[red]error[/red]" if row.proof_error else ""
    return f"{row.statuses.get('proven', 0)} {'ok' if row.proof_ok else '[red]not ok[/red]'}"


# One column a line: its title, and how its cell is made.
_COLUMNS: dict[str, Callable[[Row], str]] = {
    "form": lambda row: row.form,
    "keys": lambda row: str(row.keys),
    "right": lambda row: f"{row.right}/{row.sourced}",
    "wrong": lambda row: _alarm(row.wrong),
    "missing": lambda row: _alarm(row.missing),
    "no float source": lambda row: ", ".join(f"{count} {status}" for status, count in row.sourceless.items()),
    "of these\nwrong": lambda row: _alarm(row.sourceless_wrong),
    "output": lambda row: _equal(row.output_equal),
    "dB": lambda row: _number(row.sqnr, 1),
    "reference\ndB": lambda row: _number(row.sqnr_reference, 1),
    "proven": _proven,
    "map s": lambda row: _number(row.seconds_map, 2),
    "map\ncpu s": lambda row: _number(row.cpu_seconds_map, 2),
    "with\nproof s": lambda row: _number(row.seconds_proof, 2),
    "fill s": lambda row: _number(row.seconds_fill, 2),
}
_TEXT = ("form", "no float source", "output", "proven")


def _print(rows: list[Row], seconds: float, proof: bool) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    print_table(console, _table(rows))
    console.print(_summary(rows))
    for row in rows:
        if not row.ok or row.proof_ok is False:
            console.print(f"{row.model}, {row.form}: {_trouble(row)}", markup=False, highlight=False)
    if not proof:
        console.print("fxmap.prove cannot be imported: nothing was proven")
    console.print(f"{sum(row.ok for row in rows)} of {len(rows)} rows equal to their reference; {seconds:.0f} s in all")


def _table(rows: list[Row]) -> Table:
    table = Table(title="fxmap, keys of each form against the reference recipe", pad_edge=False)
    table.add_column("model", no_wrap=True)
    for title in _COLUMNS:
        table.add_column(title, justify="left" if title in _TEXT else "right", no_wrap=True)
    before = ""
    for row in rows:
        if before and row.model != before:
            table.add_section()
        cells = [column(row) for column in _COLUMNS.values()]
        if row.error:
            cells = [row.form, *[""] * 4, f"[red]{row.error.split(':')[0]}[/red]", *[""] * (len(cells) - 6)]
        table.add_row(row.model if row.model != before else "", *cells)
        before = row.model
    return table


def _summary(rows: list[Row]) -> Table:
    """Model by form: the keys that are equal to the reference, and how long mapping them took without a proof."""
    kinds = list(dict.fromkeys(row.form for row in rows))
    table = Table(title="keys equal to the reference / keys with a float source, seconds of auto_map", pad_edge=False)
    table.add_column("model", no_wrap=True)
    for kind in kinds:
        table.add_column(kind.replace("-", "\n"), justify="right")
    found = {(row.model, row.form): row for row in rows}
    for name in dict.fromkeys(row.model for row in rows):
        table.add_row(name, *(_cell(found[name, kind]) if (name, kind) in found else "" for kind in kinds))
    return table


def _cell(row: Row) -> str:
    text = "error" if row.error else f"{row.right}/{row.sourced}\n{_number(row.seconds_map, 2)} s"
    return text if row.ok else f"[red]{text}[/red]"


def _trouble(row: Row) -> str:
    parts = [row.error, row.proof_error]
    if row.examples:
        parts.append("not equal: " + ", ".join(row.examples))
    if row.output_equal is False:
        parts.append("another output than the reference's")
    if row.refolded is False:
        parts.append("folding again does not give the dequantized weights")
    return "; ".join(part for part in parts if part)
