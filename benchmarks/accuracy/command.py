"""The command: which cases and mappers, the tables, the files."""

import json
import os
import random
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import date
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.accuracy.cases import Case, cases
from benchmarks.accuracy.mappers import MAPPERS
from benchmarks.accuracy.page import write_page
from benchmarks.accuracy.run import NOT_INSTALLED, Row, run_case
from benchmarks.accuracy.totals import Total, ahead, false_claims, groups_of, is_ours, mappers_of, totals
from benchmarks.common.output import progress, versions, write_json
from benchmarks.common.workers import LIBRARIES, run_all
from fxmap.cli.tables import print_table

SECONDS = 60.0
WIDTH = 180  # of the tables where the output is no terminal
PEER_PACKAGES = ("weightbridge", "iatransfer", "lit-wsl")
# One column a line: its title, and how its cell is made.
_COLUMNS = {
    "answered": lambda total: f"{total.answered} of {total.cases}",
    "right": lambda total: f"{total.right}",
    "wrong": lambda total: f"{total.wrong}",
    "missing": lambda total: f"{total.missing}",
    "function\nequal": lambda total: f"{total.equal} of {total.judged}" if total.judged else "",
    "called\nequal": lambda total: f"{total.claims}",
    "falsely": lambda total: f"[red]{total.false_claims}[/red]" if total.false_claims else "0",
    "median s": lambda total: f"{total.seconds:.2f}",
    "longest s": lambda total: f"{total.longest:.1f}",
    "peak MB": lambda total: f"{total.peak_mb}",
}


def command(
    quick: Annotated[bool, typer.Option("--quick", help="A few cases of each group, in under a minute.")] = False,
    complete: Annotated[bool, typer.Option("--complete", help="All cases: hours.")] = False,
    groups: Annotated[str, typer.Option(help="Only groups whose name contains one of these, separated by commas.")] = "",
    only: Annotated[str, typer.Option(help="Only cases whose name contains this; of all of them.")] = "",
    mappers: Annotated[str, typer.Option(help="Only these mappers, separated by semicolons.")] = "",
    packages: Annotated[list[Path] | None, typer.Option(help="Folders with packages that are not installed.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Cases at a time, one thread each.")] = os.cpu_count() or 1,
    seconds: Annotated[float, typer.Option(min=1, help="What a mapper may take for a case.")] = SECONDS,
    read: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Show an earlier run's JSON file; run nothing.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", dir_okay=False, help="Write the rows to this file.")] = None,
    html_file: Annotated[Path | None, typer.Option("--html", dir_okay=False, help="Write a page with plots.")] = None,
) -> None:
    """Run fxmap and its peers on the same pairs of models, and judge every key and every function.

    Ends with exit code 1 if a peer is ahead of fxmap in a group, or fxmap is certain of something that is not so.
    """
    for path, option in ((json_file, "--json"), (html_file, "--html")):
        if path is not None and not path.parent.is_dir():
            raise typer.BadParameter(f"{path.parent} is not a directory", param_hint=option)
    start = time.perf_counter()
    if read is not None:
        data = json.loads(read.read_text(encoding="utf-8"))
        rows = [_row(row) for row in data["rows"]]
    else:
        names = _chosen_mappers(mappers)
        chosen = [case for case in cases().values() if _is_chosen(case, quick, complete, groups, only)]
        if not chosen:
            raise typer.BadParameter("no case is named so", param_hint="--only")
        folders = [str(folder.resolve()) for folder in packages or []]
        data = about(folders)
        rows = []
        for rows in _measured(chosen, names, jobs, seconds, folders):
            if json_file is not None:
                # After every case: a run that is stopped is not lost.
                write_json(json_file, "accuracy", [asdict(row) for row in rows], time.perf_counter() - start, **data)
    _print(rows, time.perf_counter() - start)
    if html_file is not None:
        write_page(html_file, rows, data | {"remarks": remarks(rows)})
    if ahead(rows) or any(is_ours(row.mapper) for row in false_claims(rows)):
        raise typer.Exit(1)


def about(folders: list[str]) -> dict[str, Any]:
    """Return what a run is made with: versions, the peers' too, the command, and the date."""
    found = dict.fromkeys(PEER_PACKAGES)
    for package in metadata.distributions(path=[*sys.path, *folders]):
        if package.name in found and found[package.name] is None:
            found[package.name] = package.version
    command = shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])
    return {"versions": versions(), "peers": found, "command": command, "date": date.today().isoformat()}


def _row(data: dict[str, Any]) -> Row:
    return Row(**data | {"false_claims": tuple(data["false_claims"])})


def _chosen_mappers(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(";") if name.strip()) or tuple(MAPPERS)
    if strangers := [name for name in names if name not in MAPPERS]:
        raise typer.BadParameter(f"{strangers[0]} is not a mapper; there are {'; '.join(MAPPERS)}", param_hint="--mappers")
    return names


def _is_chosen(case: Case, quick: bool, complete: bool, groups: str, only: str) -> bool:
    level = 2 if complete or only else 0 if quick else 1
    parts = [part.strip() for part in groups.split(",")]
    return case.level <= level and only in case.name and any(part in case.group for part in parts)


def _measured(
    chosen: list[Case], mappers: tuple[str, ...], jobs: int, seconds: float, folders: list[str]
) -> Iterator[list[Row]]:
    """Yield all rows so far after every case, in the order of the cases."""
    found: dict[str, list[Row]] = {case.name: [] for case in chosen}
    groups = {case.name: case.group for case in chosen}
    work = partial(run_case, mappers=mappers, seconds=seconds)
    # The processes inside have limits of their own; this one is for a case that cannot even be built.
    limit = 600 + (seconds + 120) * len(mappers)
    preload = (*LIBRARIES, "benchmarks.accuracy.preload", "benchmarks.accuracy.run")
    # At random, so that a run that is stopped has seen all groups.
    order = random.Random(0).sample(list(found), len(found))
    ends = run_all(work, order, jobs=jobs, seconds=limit, preload=preload, packages=folders, nested=True)
    for ended in progress(ends, len(found), lambda ended: ended.task):
        rows = list(ended.results)
        done = {row.mapper for row in rows}
        if ended.failure:
            rows += [
                Row(groups[ended.task], ended.task, name, not_run=ended.failure) for name in mappers if name not in done
            ]
        found[ended.task] = rows
        yield [row for rows in found.values() for row in rows]


def _print(rows: list[Row], took: float) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    found = totals(rows)
    for group in groups_of(rows):
        names = [name for name in mappers_of(rows) if (group, name) in found]
        if names:
            print_table(console, _table(group, {name: found[group, name] for name in names}))
    for line in remarks(rows):
        console.print(line, markup=False, highlight=False)
    console.print(f"{took:.0f} s in all")


def _table(group: str, found: dict[str, Total]) -> Table:
    keys = next(iter(found.values())).keys
    table = Table(title=f"{group}: keys of {next(iter(found.values())).cases} cases, {keys} in all", pad_edge=False)
    table.add_column("mapper", no_wrap=True)
    for title in _COLUMNS:
        table.add_column(title, justify="right")
    for name, total in found.items():
        table.add_row(name, *(column(total) for column in _COLUMNS.values()))  # type: ignore[no-untyped-call]
    return table


def remarks(rows: list[Row]) -> list[str]:
    """Say what is not installed, what was not run, who is certain of what is wrong, and who is ahead."""
    absent = [name for name in mappers_of(rows) if any(r.mapper == name and r.failure == NOT_INSTALLED for r in rows)]
    lines = [f"not installed: {name}" for name in absent]
    lines += [f"not run: {case}: {why}" for case, why in {row.case: row.not_run for row in rows if row.not_run}.items()]
    for row in false_claims(rows):
        if is_ours(row.mapper):
            lines.append(f"FALSE PROOF: {row.mapper}, {row.case}: {', '.join(row.false_claims[:5])}")
    late = [row for row in rows if row.failure.startswith(("stopped", "more than"))]
    lines += [f"{row.mapper}, {row.case}: {row.failure}" for row in late]
    peers = ahead(rows)
    lines += [f"ahead of fxmap: {line}" for line in peers] or ["no peer is ahead of fxmap in any group"]
    return lines
