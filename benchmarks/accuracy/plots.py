"""Plots of a run as SVG, written by hand: bars of right, wrong and missing keys, and time against size."""

import math
from collections.abc import Iterator, Sequence
from html import escape

from benchmarks.accuracy.run import Row
from benchmarks.accuracy.totals import Total, mappers_of

RIGHT, WRONG, MISSING = "#2a7f62", "#c8553d", "#d9d9d9"
# Colours that differ for colour-blind readers too (Okabe and Ito), by mapper.
COLOURS = {
    "fxmap": "#000000",
    "fxmap, no proof": "#0072b2",
    "fxmap, names alone": "#56b4e9",
    "weightbridge": "#e69f00",
    "lit-wsl": "#d55e00",
    "lit-wsl (Hungarian)": "#cc79a7",
    "iatransfer": "#009e73",
    "torch.ao.ns graph matcher": "#8c6d31",
    "difflib and shape": "#999999",
}
_ROW, _LABEL, _BAR, _COUNT = 19, 240, 430, 170


def bars(found: dict[str, Total]) -> str:
    """Draw one line a mapper: the shares of the keys that are right, wrong and missing."""
    lines = [line for number, (name, total) in enumerate(found.items()) for line in _bar(number, name, total)]
    width, height = _LABEL + _BAR + _COUNT, _ROW * len(found) + 4
    return svg(width, height, lines, "keys right, wrong and missing, by mapper")


def _bar(number: int, name: str, total: Total) -> Iterator[str]:
    top, at = number * _ROW + 3, float(_LABEL)
    weight = ' font-weight="600"' if name.startswith("fxmap") else ""
    yield f'<text x="{_LABEL - 8}" y="{top + 11}" text-anchor="end"{weight}>{escape(name)}</text>'
    for value, colour in ((total.right, RIGHT), (total.wrong, WRONG), (total.missing, MISSING)):
        width = _BAR * value / max(total.keys, 1)
        yield f'<rect x="{at:.1f}" y="{top}" width="{width:.1f}" height="{_ROW - 5}" fill="{colour}"/>'
        at += width
    text = f"{total.right:,} / {total.wrong:,} / {total.missing:,}"
    yield f'<text x="{_LABEL + _BAR + 8}" y="{top + 11}">{text}</text>'


def time_against_size(rows: Sequence[Row]) -> str:
    """Draw every answer of the mappers that have a colour: seconds over the number of keys, both logarithmic."""
    shown = [row for row in rows if row.seconds and row.size and row.mapper in COLOURS and not row.failure]
    if not shown:
        return ""
    across = Axis(min(row.size for row in shown), max(row.size for row in shown), 62, 620)
    up = Axis(min(row.seconds or 1 for row in shown), max(row.seconds or 1 for row in shown), 380, 12)
    lines = list(_grid(across, up))
    names = [name for name in mappers_of(shown) if name in COLOURS]
    # Fxmap's own points lie on top.
    for name in sorted(names, key=lambda name: name.startswith("fxmap")):
        lines += [_point(across(row.size), up(row.seconds or 1), row) for row in shown if row.mapper == name]
    for number, name in enumerate(names):
        y = 20 + 19 * number
        lines.append(
            f'<circle cx="646" cy="{y - 4}" r="5" fill="{COLOURS[name]}"/><text x="658" y="{y}">{escape(name)}</text>'
        )
    return svg(840, 424, lines, "processor seconds against the number of keys, by mapper")


def _point(x: float, y: float, row: Row) -> str:
    title = escape(f"{row.mapper}, {row.case}: {row.seconds:.2f} s, {row.size} keys")
    style = f'r="3" fill="{COLOURS[row.mapper]}" fill-opacity="0.65"'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" {style}><title>{title}</title></circle>'


class Axis:
    """A logarithmic scale from whole powers of ten to whole powers of ten."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.first, self.last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        self.last = max(self.last, self.first + 1)
        self.start, self.end = start, end

    def __call__(self, value: float) -> float:
        share = (math.log10(value) - self.first) / (self.last - self.first)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Return the powers of ten."""
        return [10.0**power for power in range(self.first, self.last + 1)]


def _grid(across: Axis, up: Axis) -> Iterator[str]:
    for value in across.ticks():
        x = across(value)
        yield f'<line x1="{x}" x2="{x}" y1="{up.end}" y2="{up.start}" stroke="#e4e4e4"/>'
        yield f'<text x="{x}" y="{up.start + 16}" text-anchor="middle">{value:,g}</text>'
    for value in up.ticks():
        y = up(value)
        yield f'<line x1="{across.start}" x2="{across.end}" y1="{y}" y2="{y}" stroke="#e4e4e4"/>'
        yield f'<text x="{across.start - 6}" y="{y + 4}" text-anchor="end">{value:g} s</text>'
    middle = (across.start + across.end) / 2
    yield f'<text x="{middle}" y="{up.start + 36}" text-anchor="middle">keys of the destination</text>'


def svg(width: float, height: float, lines: Sequence[str], label: str) -> str:
    """Return the elements of a picture as one, with a label for readers who do not see it."""
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" role="img" aria-label="{escape(label)}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(lines)}</svg>'
    )
