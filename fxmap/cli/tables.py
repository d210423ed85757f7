"""Tables on a terminal: one that is wider than the terminal becomes a list, since cut cells cannot be read.

>>> table = Table("form", "keys", "proof", title="what was mapped")
>>> table.add_row("int8 per channel", "320", "ok")
>>> print_table(Console(width=24), table)
what was mapped
int8 per channel:
    keys 320, proof ok
"""

from collections.abc import Iterator
from textwrap import fill

from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text


def print_table(console: Console, table: Table) -> None:
    """Print a table, or, where the console is too narrow for it, each row as an entry of a list."""
    widest = Measurement.get(console, console.options.update(max_width=10_000), table).maximum
    if widest <= console.width:
        console.print(table)
        return
    if table.title:
        console.print(table.title)
    for name, *cells in zip(*(column.cells for column in table.columns), strict=True):
        console.print(f"{_text(name)}:", markup=False)
        figures = [f"{head} {cell}" for head, cell in zip(_heads(table), map(_text, cells), strict=True) if cell]
        indent = " " * 4
        text = fill(", ".join(figures), console.width, initial_indent=indent, subsequent_indent=indent)
        console.print(text, markup=False, highlight=False)


def _heads(table: Table) -> Iterator[str]:
    """Yield the titles of the columns behind the first, each on one line."""
    for column in table.columns[1:]:
        yield " ".join(_text(column.header).split())


def _text(cell: RenderableType) -> str:
    return Text.from_markup(cell).plain if isinstance(cell, str) else str(cell)
