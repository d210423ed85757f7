"""`python -m benchmarks sources`: models exported and mapped back into themselves, beside equal names alone."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.common.output import progress, write_json
from benchmarks.common.workers import LIBRARIES, run_all
from benchmarks.sources.measure import EXPORTERS, measured
from benchmarks.sources.models import subjects

_LIBRARIES = (*LIBRARIES, "onnx", "benchmarks.sources.measure")


def command(
    only: Annotated[str, typer.Option(help="Only models whose name contains one of these.")] = "",
    exporters: Annotated[str, typer.Option(help="Only these, separated by commas.")] = ",".join(EXPORTERS),
    limit: Annotated[float, typer.Option(help="Seconds that one export and its mapping may take.")] = 180,
    total: Annotated[float, typer.Option(help="Seconds after which no further one is begun.")] = float("inf"),
    json_file: Annotated[Path | None, typer.Option("--json", dir_okay=False, help="Write the rows to this file.")] = None,
) -> None:
    """Export models, map what was exported back into them, and count keys that are right and proven."""
    start = time.perf_counter()
    chosen = exporters.split(",")
    unknown = [name for name in chosen if name not in EXPORTERS]
    if unknown:
        raise typer.BadParameter(f"{unknown[0]}: not one of {', '.join(EXPORTERS)}")
    tasks = [(subject.name, exporter) for subject in subjects(only) for exporter in chosen]
    rows: list[dict[str, Any]] = []
    for task in progress(tasks, len(tasks), " ".join):
        if time.perf_counter() - start > total:
            break
        for ended in run_all(measured, [task], seconds=limit, preload=_LIBRARIES):
            failed = {"model": task[0], "exporter": task[1], "failure": ended.failure}
            rows += list(ended.results) or [failed]
        if json_file is not None:
            write_json(json_file, "sources", rows, time.perf_counter() - start)
    _print(rows, chosen)


def _print(rows: list[dict[str, Any]], exporters: list[str]) -> None:
    table = Table(title="keys right by names alone / by fxmap / of all; proven; seconds", title_justify="left")
    table.add_column("model")
    for name in exporters:
        table.add_column(name)
    for model in dict.fromkeys(row["model"] for row in rows):
        found = {row["exporter"]: row for row in rows if row["model"] == model}
        table.add_row(model, *(_cell(found.get(name)) for name in exporters))
    table.add_section()
    table.add_row("all", *(_sum([row for row in rows if row["exporter"] == name]) for name in exporters))
    Console().print(table)


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    if row["failure"]:
        return str(row["failure"])[:40]
    return (
        f"{row['floor']}/{row['right']}/{row['keys']} {'proven' if row['proven'] else 'not proven'} {row['seconds']:.0f} s"
    )


def _sum(rows: list[dict[str, Any]]) -> str:
    done = [row for row in rows if not row["failure"]]
    if not done:
        return ""
    floor, right, keys = (sum(row[name] for row in done) for name in ("floor", "right", "keys"))
    whole = sum(row["right"] == row["keys"] for row in done)
    proven = sum(row["proven"] for row in done)
    exported = sum(not row["failure"].startswith("no export") for row in rows)
    return f"{floor / keys:.1%}/{right / keys:.1%} of {keys} keys; {whole} whole, {proven} proven of {exported} exported"
