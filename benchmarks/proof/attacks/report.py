"""What the command prints of attacks and equal pairs, and the rows of its JSON file."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.common.output import plain
from benchmarks.proof.attacks.measure import Row
from fxmap.cli.tables import print_table


def show(console: Console, rows: list[Row], everything: bool) -> None:
    """Print a table of attacks and one of equal pairs, each false proof, and the cause of each pair that is not proven."""
    attacks, pairs = [row for row in rows if not row.equal], [row for row in rows if row.equal]
    if attacks:
        print_table(console, _table("attacks by kind", attacks, _OF_ATTACKS))
        for row in attacks:
            if row.is_false or row.discarded or row.failure or (everything and not row.located):
                console.print(_line(row), markup=False, highlight=False)
    if pairs:
        print_table(console, _table("equal pairs by kind", pairs, _OF_PAIRS))
        for row in pairs:
            if row.is_false or not row.ok:
                console.print(_line(row), markup=False, highlight=False)
    for text in totals(attacks, pairs):
        console.print(text, markup=False, highlight=False)


def totals(attacks: list[Row], pairs: list[Row]) -> Iterator[str]:
    """Yield a sentence of attacks and one of equal pairs."""
    if attacks:
        counted = [row for row in attacks if row.counts]
        yield (
            f"{len(counted)} attacks count; {sum(row.is_false for row in attacks)} false proofs or labels; "
            f"{sum(row.located for row in counted)} located; {len(attacks) - len(counted)} discarded; {_seconds(attacks)} s"
        )
    if pairs:
        counted = [row for row in pairs if row.counts]
        yield (
            f"{len(counted)} equal pairs count; {sum(row.ok and not row.wrong for row in counted)} proven; "
            f"{sum(row.is_false for row in counted)} false proofs or labels; "
            f"{len(pairs) - len(counted)} discarded; {_seconds(pairs)} s"
        )


def as_data(rows: list[Row]) -> list[dict[str, Any]]:
    """Return rows for JSON, with what was concluded of each."""
    return [plain(asdict(row) | {"false": row.is_false, "cause": row.cause}) for row in rows]


def _seconds(rows: Iterable[Row]) -> str:
    return f"{sum(row.seconds for row in rows):.0f}"


Columns = dict[str, Callable[[list[Row]], str]]

_OF_ATTACKS: Columns = {
    "cases": lambda rows: str(len(rows)),
    "count": lambda rows: str(sum(row.counts for row in rows)),
    "false\nproofs": lambda rows: _red(sum(row.false_proof for row in rows)),
    "false\nlabels": lambda rows: _red(sum(row.counts and bool(row.false_keys) for row in rows)),
    "located": lambda rows: str(sum(row.located for row in rows)),
    "refused,\nnot located": lambda rows: str(sum(row.counts and not row.is_false and not row.located for row in rows)),
    "raised": lambda rows: str(sum(bool(row.failure) for row in rows)),
    "s": _seconds,
}
_OF_PAIRS: Columns = {
    "pairs": lambda rows: str(len(rows)),
    "count": lambda rows: str(sum(row.counts for row in rows)),
    "proven": lambda rows: str(sum(row.ok and not row.wrong for row in rows if row.counts)),
    "right, and\nnot proven": lambda rows: str(sum(not row.ok and not row.wrong for row in rows if row.counts)),
    "mapped\nwrongly": lambda rows: str(sum(row.wrong for row in rows if row.counts)),
    "false\nproofs": lambda rows: _red(sum(row.false_proof for row in rows)),
    "false\nlabels": lambda rows: _red(sum(row.counts and bool(row.false_keys) for row in rows)),
    "s": _seconds,
}


def _red(count: int) -> str:
    return f"[red]{count}[/red]" if count else "0"


def _table(title: str, rows: list[Row], columns: Columns) -> Table:
    table = Table(title=title, pad_edge=False)
    table.add_column("kind", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.kind, []).append(row)
    for kind, group in [*groups.items(), ("all", rows)]:
        if kind == "all":
            table.add_section()
        table.add_row(kind, *(cell(group) for cell in columns.values()))
    return table


def _line(row: Row) -> str:
    if row.discarded:
        return f"discarded: {row.kind}, {row.name}: {row.discarded}"
    if row.is_false:
        what = "FALSE PROOF" if row.false_proof else "FALSE LABEL"
        return f"{what}: {row.kind}, {row.name} (differs by {row.distance:.1e}) {', '.join(row.false_keys)}"
    what = "not proven" if row.equal else "raised" if row.failure else "not located"
    return f"{what}: {row.kind}, {row.name}: {row.cause}"
