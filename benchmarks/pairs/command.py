"""`python -m benchmarks pairs`: map between public libraries, and judge every key and every function."""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.common.judge import EXAMPLES, Row, judge
from benchmarks.common.output import progress, write_json
from benchmarks.common.workers import LIBRARIES, Ended, run_all
from benchmarks.registry import GROUPS, PAIRS
from benchmarks.registry.compat import install_pkg_resources
from benchmarks.registry.pair import Pair
from fxmap.cli.tables import print_table

WIDTH = 180  # of the table where the output is no terminal


def command(
    only: Annotated[
        str, typer.Option(help="Only pairs whose id matches one of these patterns, such as 'timm:vit*,*swin*'.")
    ] = "*",
    group: Annotated[str, typer.Option(help="known: with truth maps; unseen: without; or all.")] = "known",
    hard: Annotated[bool, typer.Option("--hard", help="Only pairs that none of the controls gets right.")] = False,
    max_params: Annotated[float, typer.Option(help="Only pairs up to so many million parameters.")] = float("inf"),
    min_params: Annotated[float, typer.Option(help="Only pairs of more than so many million parameters.")] = 0,
    packages: Annotated[Path | None, typer.Option(help="Folder with the old packages that some pairs need.")] = None,
    proof: Annotated[bool, typer.Option("--proof", help="Prove every mapping, and look for false proofs.")] = False,
    controls: Annotated[bool, typer.Option("--controls", help="Run mappers that look at names, shapes and order.")] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Pairs at a time, one thread each.")] = 1,
    seconds: Annotated[float, typer.Option(min=1, help="Time limit of one pair.")] = 300,
    json_file: Annotated[Path | None, typer.Option("--json", dir_okay=False, help="Write the rows to this file.")] = None,
) -> None:
    """Map between implementations of one network in public libraries, and judge keys and functions.

    Ends with exit code 1 if a pair that ran is not right.
    """
    if group not in (*GROUPS, "all"):
        raise typer.BadParameter(f"there are {', '.join(GROUPS)} and all", param_hint="--group")
    chosen = [
        pair
        for pair in GROUPS.get(group, PAIRS).values()
        if any(fnmatch(pair.id, pattern) for pattern in only.split(","))
        and min_params < pair.params <= max_params
        and (pair.hard or not hard)
    ]
    chosen.sort(key=lambda pair: pair.params)  # what is quick is known early
    if not chosen:
        raise typer.BadParameter(f"no pair matches {only!r} and the other options", param_hint="--only")
    if packages is not None and not packages.is_dir():
        raise typer.BadParameter(f"{packages} is not a directory", param_hint="--packages")
    if json_file is not None and not json_file.parent.is_dir():
        raise typer.BadParameter(f"{json_file.parent} is not a directory", param_hint="--json")
    start = time.perf_counter()
    work = partial(judged, proof=proof, controls=controls)
    rows: list[Row] = []
    for rows in _measured(chosen, work, jobs, seconds, packages):
        if json_file is not None:
            # After every pair: a run that is stopped is not lost.
            plain = [asdict(row) | {"ok": row.ok} for row in rows]
            write_json(json_file, "pairs", plain, time.perf_counter() - start, totals=totals(rows))
    _print(rows, time.perf_counter() - start)
    if not all(row.ok for row in rows if row.ran):
        raise typer.Exit(1)


def judged(pair: str, *, proof: bool, controls: bool) -> Iterator[Row]:
    """Judge a pair by its name, in a process of its own."""
    install_pkg_resources()
    return judge(PAIRS[pair], proof=proof, controls=controls)


def _measured(
    chosen: list[Pair], function: Callable[[Any], Iterator[Any]], jobs: int, seconds: float, packages: Path | None
) -> Iterator[list[Row]]:
    """Yield the rows of all pairs so far, in the order of `chosen`, after every pair."""
    rows: dict[str, list[Row]] = {pair.id: [] for pair in chosen}
    folders = [] if packages is None else [str(packages.resolve())]
    ends = run_all(function, list(rows), jobs=jobs, seconds=seconds, preload=LIBRARIES, packages=folders)
    for ended in progress(ends, len(rows), lambda ended: ended.task):
        rows[ended.task] = _rows(ended)
        yield [row for found in rows.values() for row in found]


def _rows(ended: Ended) -> list[Row]:
    """Return the rows of a pair; what crashed, or took too long, is a row too."""
    rows: list[Row] = list(ended.results)
    if ended.failure:
        pair = PAIRS[ended.task]
        way = "plain" if rows or not (pair.src_out or pair.dst_out) else "forwards"
        rows.append(
            Row(pair.id, pair.family, way, pair.params, pair.hard, pair.same_function, missing=1, failure=ended.failure)
        )
    return rows


def _alarm(count: int) -> str:
    return f"[red]{count}[/red]" if count else "0"


def _equal(row: Row) -> str:
    if not row.same_function:
        return "keys only" if row.ok else "[red]keys only[/red]"
    return "equal" if row.equal else "[red]differs[/red]"


def _proof(row: Row) -> str:
    if row.proof_ok is None:
        return ""
    if row.false_proofs:
        return f"[red]false: {len(row.false_proofs)}[/red]"
    return f"{row.statuses.get('proven', 0)} {'ok' if row.proof_ok else 'not ok'}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


# One column a line: its title, and how its cell is made.
_COLUMNS: dict[str, Callable[[Row], str]] = {
    "pair": lambda row: row.id + (" (hard)" if row.hard else ""),
    "way": lambda row: row.way,
    "keys": lambda row: str(row.keys),
    "right": lambda row: str(row.right),
    "wrong": lambda row: _alarm(row.wrong),
    "missing": lambda row: _alarm(row.missing),
    "function": _equal,
    "proven": _proof,
    "rung": lambda row: "/".join(dict.fromkeys(row.rungs)),
    "map s": lambda row: _number(row.seconds),
    "with\nproof s": lambda row: _number(row.seconds_proof),
}
_TEXT = ("pair", "way", "function", "proven", "rung")


def _print(rows: list[Row], took: float) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    table = Table(title="fxmap, keys and functions of pairs of models", pad_edge=False)
    for title in _COLUMNS:
        table.add_column(title, justify="left" if title in _TEXT else "right", no_wrap=title != "pair", overflow="fold")
    for row in rows:
        if row.ran:
            table.add_row(*(column(row) for column in _COLUMNS.values()))
    print_table(console, table)
    for row in rows:
        if not row.ran:
            console.print(f"not run: {row.id}: {row.not_run}", markup=False, highlight=False)
        elif not row.ok or row.load_failure:
            console.print(f"{row.id}, {row.way}: {trouble(row)}", markup=False, highlight=False)
    for line in totals(rows):
        console.print(line, markup=False, highlight=False)
    console.print(f"{took:.0f} s in all")


def trouble(row: Row) -> str:
    """Say what is wrong with a row."""
    parts = [row.failure, row.load_failure]
    if row.same_function and not row.equal and row.error is not None:
        parts.append(f"outputs differ by {row.error:.1e}")
    for what, keys in (("wrong", row.wrong_keys), ("missing", row.missing_keys), ("falsely proven", row.false_proofs)):
        if keys:
            parts.append(f"{what} ({len(keys)}): {', '.join(keys[:EXAMPLES])}")
    if not row.same_function and row.proof_ok:
        parts.append("called proven, and the functions differ")
    return "; ".join(part for part in parts if part)


def totals(rows: list[Row]) -> list[str]:
    """Count pairs: one that runs in two ways is right if both are."""
    pairs: dict[str, list[Row]] = {}
    for row in rows:
        if row.ran:
            pairs.setdefault(row.id, []).append(row)
    groups = {
        "pairs": pairs,
        "hard pairs": {name: found for name, found in pairs.items() if found[0].hard},
    }
    lines = []
    for title, group in groups.items():
        same = [found for found in group.values() if found[0].same_function]
        equal = sum(all(row.equal for row in found) for found in same)
        right = sum(all(row.ok for row in found) for found in group.values())
        text = f"{title}: {equal} of {len(same)} with equal functions, {right} of {len(group)} with every key right"
        others = len(group) - len(same)
        lines.append(text + (f" ({others} of them for their keys alone)" if others else ""))
    ways = [row for row in rows if row.ran and row.way == "forwards"]
    if ways:
        lines.append(f"with functions of their own: {sum(row.ok for row in ways)} of {len(ways)}")
    proven = [row for row in rows if row.proof_ok is not None]
    if proven:
        false = sum(bool(row.false_proofs) for row in proven)
        lines.append(f"proof ok: {sum(bool(row.proof_ok) for row in proven)} of {len(proven)} rows; false proofs: {false}")
    for name in dict.fromkeys(name for row in rows for name in row.controls):
        controlled = [row.controls[name] for row in rows if row.controls]
        lines.append(f"control, {name}: {sum(controlled)} of {len(controlled)} with equal functions")
    seconds = sorted(row.seconds for row in rows if row.seconds is not None)
    if len(seconds) > 1:
        tenth = statistics.quantiles(seconds, n=10)[-1]
        lines.append(
            f"seconds of auto_map without proof: median {statistics.median(seconds):.2f}, 90th percentile {tenth:.2f}"
        )
    lines.append(f"not run: {sum(not row.ran for row in rows)}")
    return lines
