"""`python -m benchmarks compare OLD.json NEW.json`: what got better, and what got worse.

Results are compared row by row. Timings of two runs say nothing beside one another, since machines and neighbours differ:
each is first divided by a time of its own run, that of building the models where it was measured, else the median of its
column.
"""

import json
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from fxmap.cli.tables import print_table

WIDTH = 180  # of the table where the output is no terminal
NOTABLE = 1.5  # a ratio of times that is reported

# What names a row, what is good when it is high, and what is good when it is low.
_NAMES = ("id", "way", "model", "form", "name", "kind")
_HIGH = ("ok", "equal", "right", "mapped", "output_equal", "proof_ok", "sqnr")
_LOW = ("wrong", "missing", "sourceless_wrong", "false_proofs")

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Change:
    """One difference between two runs, and whether it is for the better (None: neither)."""

    row: str
    what: str
    old: str
    new: str
    better: bool | None


def command(
    old: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The JSON file of the earlier run.")],
    new: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The JSON file of the later run.")],
) -> None:
    """Compare two runs of one benchmark. Ends with exit code 1 if something other than a time got worse."""
    before, after = _read(old), _read(new)
    if before["benchmark"] != after["benchmark"]:
        raise typer.BadParameter(f"{old} is of {before['benchmark']}, {new} is of {after['benchmark']}")
    found = [*version_changes(before, after), *result_changes(before, after)]
    times = list(time_changes(before, after))
    _print([*found, *times])
    if any(change.better is False for change in found):
        raise typer.Exit(1)


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise typer.BadParameter(f"{path} is no JSON: {error}") from error
    if not isinstance(data, dict) or not {"benchmark", "rows"} <= data.keys():
        raise typer.BadParameter(f"{path} was not written by a benchmark of this package: it has no rows")
    return data


def version_changes(before: Row, after: Row) -> Iterator[Change]:
    """Yield what the two runs were made with, where that differs."""
    old, new = before.get("versions", {}), after.get("versions", {})
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            yield Change("versions", name, str(old.get(name)), str(new.get(name)), None)


def result_changes(before: Row, after: Row) -> Iterator[Change]:
    """Yield rows that came or went, and results that differ."""
    old, new = _by_name(before), _by_name(after)
    for name in [*old, *(name for name in new if name not in old)]:
        if name not in new or name not in old:
            yield Change(name, "row", *(("there", "gone") if name in old else ("", "new")), None)
            continue
        for column in (*_HIGH, *_LOW):
            first, second = _number(old[name].get(column)), _number(new[name].get(column))
            if first is not None and second is not None and first != second:
                better = (second > first) == (column in _HIGH)
                yield Change(name, column, f"{first:g}", f"{second:g}", better)
        if bool(old[name].get("failure")) != bool(new[name].get("failure")):
            first_failure, second_failure = (str(rows[name].get("failure") or "none") for rows in (old, new))
            yield Change(name, "failure", first_failure, second_failure, not new[name].get("failure"))


def time_changes(before: Row, after: Row) -> Iterator[Change]:
    """Yield times that changed notably, each relative to its own run; and exponents."""
    old, new = relative_times(before), relative_times(after)
    for key in old.keys() & new.keys():
        ratio = new[key] / old[key]
        if ratio > NOTABLE or ratio < 1 / NOTABLE:
            yield Change(key[0], f"{key[1]}, relative", f"{old[key]:.3g}", f"{new[key]:.3g}", ratio < 1)
    exponents = before.get("exponents", {}), after.get("exponents", {})
    for stage in exponents[0].keys() & exponents[1].keys():
        first, second = (found[stage] for found in exponents)
        if abs(first - second) > 0.1:
            yield Change("exponents", stage, f"{first:.2f}", f"{second:.2f}", second < first)


def relative_times(run: Row) -> dict[tuple[str, str], float]:
    """Return every time of a run, divided by a time of the same run.

    >>> run = {"rows": [{"id": "a", "seconds": 3.0, "seconds_build": 2.0}]}
    >>> relative_times(run)
    {('a', 'seconds'): 1.5}
    """
    rows = {name: _times(row) for name, row in _by_name(run).items()}
    columns: dict[str, list[float]] = {}
    for times in rows.values():
        for column, value in times.items():
            columns.setdefault(column, []).append(value)
    result = {}
    for name, times in rows.items():
        build = times.pop("seconds_build", None)
        for column, value in times.items():
            floor = build or statistics.median(columns[column])
            if floor and value:
                result[name, column] = value / floor
    return result


def _times(row: Row) -> dict[str, float]:
    found = {column: value for column, value in row.items() if column.startswith("seconds") and isinstance(value, float)}
    stages = row.get("seconds")
    return found | (stages if isinstance(stages, dict) else {})


def _by_name(run: Row) -> dict[str, Row]:
    return {", ".join(str(row[part]) for part in _NAMES if part in row): row for row in run["rows"]}


def _number(value: Any) -> float | None:
    if isinstance(value, list):
        return len(value)
    return float(value) if isinstance(value, bool | int | float) else None


def _print(changes: list[Change]) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    for title, better in (("worse", False), ("better", True), ("other", None)):
        table = Table(title=title, pad_edge=False)
        for column in ("row", "what", "old", "new"):
            table.add_column(column, overflow="fold")
        chosen = [change for change in changes if change.better is better]
        for change in chosen:
            table.add_row(change.row, change.what, change.old, change.new)
        if chosen:
            print_table(console, table)
    counts = {better: sum(change.better is better for change in changes) for better in (True, False)}
    console.print(f"{counts[True]} better, {counts[False]} worse")
