"""`python -m benchmarks faults`: attacks by files, mappings, names, numbers and models, and how many of them were survived.

Every attack is made from its kind and its number, so that a failure can be repeated. A kind runs in processes of its own:
one that dies or hangs counts as not survived, and the next begins after it.
"""

import multiprocessing
import random
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.common.output import write_json
from benchmarks.common.workers import run_one
from benchmarks.faults import arguments, files, mappings, models, process, programs
from benchmarks.faults.attack import Attack
from fxmap.cli.tables import print_table

_PARTS = (files, mappings, arguments, programs, models, process)
ATTACKS: dict[str, Attack] = {attack.name: attack for part in _PARTS for attack in part.attacks()}
_SHOWN = 5  # failures of a kind that are kept


@dataclass
class Row:
    """What came of one kind of attack; `failures` are the first, as number and text."""

    name: str
    holds: str
    tried: int = 0
    survived: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)

    def add(self, number: int, failure: str) -> None:
        """Count one attack."""
        self.tried += 1
        self.survived += not failure
        if failure and len(self.failures) < _SHOWN:
            self.failures.append(f"{number}: {failure}")


def command(
    count: Annotated[int, typer.Option(min=1, help="Attacks of each kind.")] = 1000,
    only: Annotated[str, typer.Option(help="Kinds, separated by commas; by default all.")] = "",
    seconds: Annotated[float, typer.Option(min=1, help="Time of one kind, after which it ends with what was tried.")] = 600,
    json_file: Annotated[Path | None, typer.Option("--json", dir_okay=False, help="Write the rows to this file.")] = None,
) -> None:
    """Attack fxmap by damaged and hostile files, mappings, names, numbers and models, and print what was survived."""
    names = [name.strip() for name in only.split(",")] if only else list(ATTACKS)
    unknown = [name for name in names if name not in ATTACKS]
    if unknown:
        raise typer.BadParameter(f"{unknown[0]}: the kinds are {', '.join(ATTACKS)}", param_hint="--only")
    # The server of the processes imports once what all of them need.
    multiprocessing.get_context("forkserver").set_forkserver_preload(["benchmarks.faults.command"])
    start = time.perf_counter()
    rows: list[Row] = []
    for name in names:
        rows.append(run(ATTACKS[name], count, seconds))
        if json_file is not None:
            write_json(json_file, "faults", rows_of(rows), time.perf_counter() - start)
    _print(rows, time.perf_counter() - start)
    if any(row.survived < row.tried for row in rows):
        raise typer.Exit(1)


def run(attack: Attack, count: int, seconds: float) -> Row:
    """Try the attacks of a kind, numbered from 0, until there are enough or the time is over."""
    row, start = Row(attack.name, attack.holds), time.perf_counter()
    while row.tried < count and (left := seconds - (time.perf_counter() - start)) > 0:
        first = row.tried
        ended = run_one(many, (attack.name, first, count), left, method="forkserver")
        for number, failure in ended.results:
            row.add(number, failure)
        # The process sends a result after every attack, so that the one that ended it is the next.
        if ended.failure and row.tried < count and not ended.failure.startswith("stopped"):
            row.add(row.tried, ended.failure)
        elif ended.failure.startswith("stopped") and row.tried == first:
            row.add(row.tried, f"hangs: {ended.failure}")
    row.seconds = time.perf_counter() - start
    return row


def many(task: tuple[str, int, int]) -> Iterator[tuple[int, str]]:
    """Try attacks of a kind, and yield number and failure of each."""
    name, first, count = task
    for number in range(first, count):
        yield number, one(ATTACKS[name], number)


def one(attack: Attack, number: int) -> str:
    """Try one attack in an empty folder; return what went wrong, empty where nothing did."""
    with tempfile.TemporaryDirectory(prefix="fxmap-faults-", ignore_cleanup_errors=True) as folder:
        return attack.try_one(random.Random(f"{attack.name} {number}"), Path(folder))


def _print(rows: list[Row], took: float) -> None:
    console = Console()
    table = Table(title="attacks, tried and survived", pad_edge=False)
    for title in ("kind", "what must hold", "tried", "survived", "s"):
        table.add_column(title, justify="right" if title in ("tried", "survived", "s") else "left")
    for row in rows:
        table.add_row(row.name, row.holds, str(row.tried), str(row.survived), f"{row.seconds:.0f}")
    print_table(console, table)
    for row in rows:
        for failure in row.failures:
            console.print(
                f"{row.name} {failure}".encode("ascii", "backslashreplace").decode(), markup=False, highlight=False
            )
    console.print(f"{sum(row.survived for row in rows)} of {sum(row.tried for row in rows)} survived, {took:.0f} s in all")


def rows_of(rows: list[Row]) -> list[dict[str, Any]]:
    """Return the rows as plain dicts."""
    return [asdict(row) for row in rows]
