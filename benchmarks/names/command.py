"""`python -m benchmarks names`: keys of real pairs matched by names and shapes alone, beside the peers that do so.

No model is built: the key trees lie in names.json.xz.
"""

import sys
import time
from collections import defaultdict
from dataclasses import asdict
from functools import partial
from multiprocessing import Pool
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.common.output import progress, write_json
from benchmarks.names.data import NamedPair, read
from benchmarks.names.data import by_name as sorted_by_name
from benchmarks.names.measure import NOT_INSTALLED, OURS, Row, measure
from benchmarks.names.peers import PEERS
from fxmap.cli.tables import print_table


def command(
    mappers: Annotated[str, typer.Option(help="Only these, separated by commas; fxmap is one of them.")] = "",
    only: Annotated[str, typer.Option(help="Only pairs whose name contains this.")] = "",
    by_name: Annotated[
        bool, typer.Option("--sorted", help="Sort the sources' keys by name, as safetensors files are.")
    ] = False,
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
    pairs = [sorted_by_name(pair) if by_name else pair for pair in read() if only in pair.id]
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
        if all(row.refused.startswith(NOT_INSTALLED) for row in own):
            table.add_row(name, own[0].refused, *[""] * len(groups))
            continue
        cells = ["{} / {} / {} ({})".format(*totals[group, name]) for group in groups]
        table.add_row(name, *cells, f"{max(row.seconds for row in own):.1f}")
    print_table(Console(width=None if sys.stdout.isatty() else 200), table)
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
