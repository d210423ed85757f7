import doctest
from pathlib import Path

from benchmarks.proof.attacks.kinds import KINDS

PAGE = Path(__file__).parents[2] / "docs/proof.md"


def test_the_examples_of_the_page_do_what_it_says() -> None:
    results = doctest.testfile(str(PAGE), module_relative=False)
    assert results.attempted > 5
    assert results.failed == 0


def test_the_page_says_of_every_kind_of_attacks_whether_it_is_there() -> None:
    text = PAGE.read_text(encoding="utf-8")
    if "## Not there yet" not in text:
        return
    table = text.split("## Not there yet")[1]
    kinds = {kind.removeprefix("attack: ") for kind in KINDS} - {"parts that are none"}
    named = {line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")}
    assert named - {"kind", "parts of a source"} <= kinds
