"""`python -m benchmarks plots`: draw the plots of the documentation from what other benchmarks wrote as JSON."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.accuracy.plots import bars, time_against_size
from benchmarks.accuracy.run import Row
from benchmarks.accuracy.totals import Total, mappers_of
from benchmarks.common.output import write_text
from benchmarks.plots.draw import curves, document, shares

Rows = Sequence[Mapping[str, Any]]

# What a line of the speed plot adds up.
_STAGES = {
    "capture": ("capture", "build"),
    "normalise": ("normalise",),
    "align": ("align", "search"),
    "derive": ("derive",),
    "prove": ("prove",),
}


def command(
    files: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False, help="What --json of a benchmark wrote.")],
    folder: Annotated[Path, typer.Option(file_okay=False, help="Where the plots go.")] = Path("docs/plots"),
) -> None:
    """Draw plots of runs of accuracy, pairs and speed: one file a plot, named after the benchmark."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        data = json.loads(file.read_text(encoding="utf-8"))
        draw = _DRAWN.get(data.get("benchmark", ""))
        if draw is None:
            raise typer.BadParameter(f"{file}: no run of {', '.join(_DRAWN)}")
        for name, picture in draw(data["rows"]).items():
            write_text(folder / f"{name}.svg", document(picture))
            typer.echo(f"wrote {folder / name}.svg")


def _accuracy(rows: Rows) -> dict[str, str]:
    found = [Row(**row) for row in rows]
    totals = {name: Total.of([row for row in found if row.mapper == name]) for name in mappers_of(found)}
    answered = {name: total for name, total in totals.items() if total.answered}
    drawn = {"accuracy": bars(answered), "accuracy-time": time_against_size(found)}
    return {name: picture for name, picture in drawn.items() if picture}


def _pairs(rows: Rows) -> dict[str, str]:
    ran = [row for row in rows if row["ok"] and row["seconds"]]
    found = {"mapping": [row["seconds"] for row in ran]}
    proven = [row["seconds_proof"] for row in ran if row["seconds_proof"]]
    found |= {"proof": proven} if proven else {}
    found["building both models"] = [row["seconds_build"] for row in ran if row["seconds_build"]]
    return {"pairs": shares(found, "seconds", f"share of {len(ran)} pairs that took at most so many seconds")}


def _speed(rows: Rows) -> dict[str, str]:
    made = sorted(
        (row for row in rows if row["kind"] == "generated" and not row["failure"]), key=lambda row: row["operations"]
    )
    found = {
        name: [
            (row["operations"], seconds)
            for row in made
            if (seconds := sum(row["seconds"].get(stage, 0.0) for stage in stages)) > 0
        ]
        for name, stages in _STAGES.items()
    }
    drawn = {name: points for name, points in found.items() if points}
    return {
        "speed": curves(drawn, "operations of the larger network", "seconds of the processor", "seconds by stage and size")
    }


_DRAWN: dict[str, Callable[[Rows], dict[str, str]]] = {"accuracy": _accuracy, "pairs": _pairs, "speed": _speed}
