"""Tables fit the terminal, as tables or as lists."""

from io import StringIO

import pytest
from rich.console import Console
from rich.table import Table

from fxmap.cli.tables import print_table


def printed(width: int) -> str:
    table = Table("form", "number of\nkeys", "proof")
    for name in ("int8 per channel, fbgemm", "float"):
        table.add_row(name, "[green]320[/green]", "ok" if name == "float" else "")
    out = StringIO()
    print_table(Console(file=out, width=width), table)
    return out.getvalue()


@pytest.mark.parametrize("width", [20, 30, 40, 80])
def test_nothing_is_cut_in_any_width(width: int) -> None:
    text = printed(width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    assert text.count("320") == 2


def test_a_wide_terminal_has_a_table_and_a_narrow_one_a_list() -> None:
    assert "┃" in printed(80)
    assert printed(30).splitlines() == [
        "int8 per channel, fbgemm:",
        "    number of keys 320",
        "float:",
        "    number of keys 320, proof",
        "    ok",
    ]
