"""Plots as SVG, written by hand: curves on two logarithmic axes, and what a document around them needs."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import pairwise

from benchmarks.accuracy.plots import Axis, svg

Points = Sequence[tuple[float, float]]

# Colours that differ for colour-blind readers too (Okabe and Ito).
COLOURS = ("#000000", "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7")
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 560, 24, 330


def curves(found: Mapping[str, Points], across: str, up: str, title: str) -> str:
    """Draw curves of positive numbers, each with its name at its end."""
    points = [point for one in found.values() for point in one]
    x_axis = Axis(min(x for x, _ in points), max(x for x, _ in points), _LEFT, _RIGHT)
    y_axis = Axis(min(y for _, y in points), max(y for _, y in points), _BOTTOM, _TOP)
    lines = [*_frame(x_axis, y_axis, across, up)]
    ends = _apart([y_axis(one[-1][1]) for one in found.values()])
    for (name, one), colour, end in zip(found.items(), COLOURS, ends, strict=False):
        path = " ".join(f"{x_axis(x):.1f},{y_axis(y):.1f}" for x, y in one)
        lines.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        lines += [f'<circle cx="{x_axis(x):.1f}" cy="{y_axis(y):.1f}" r="2.5" fill="{colour}"/>' for x, y in one]
        x = x_axis(one[-1][0]) + 8
        lines.append(f'<text x="{x:.1f}" y="{end + 4:.1f}" fill="{colour}">{escape(name)}</text>')
    return svg(_RIGHT + 130, _BOTTOM + 50, lines, title)


def shares(found: Mapping[str, Sequence[float]], across: str, title: str) -> str:
    """Draw which share of several numbers is at most so large, for each sequence of positive numbers."""
    values = [value for one in found.values() for value in one]
    axis = Axis(min(values), max(values), _LEFT, _RIGHT)
    height = _BOTTOM - _TOP
    lines = [*_grid_across(axis, across)]
    for percent in (0, 25, 50, 75, 100):
        y = _BOTTOM - height * percent / 100
        lines.append(f'<line x1="{_LEFT}" x2="{_RIGHT}" y1="{y:g}" y2="{y:g}" stroke="#e4e4e4"/>')
        lines.append(f'<text x="{_LEFT - 6}" y="{y + 4:g}" text-anchor="end">{percent} %</text>')
    for place, ((name, one), colour) in enumerate(zip(found.items(), COLOURS, strict=False)):
        ordered = sorted(one)
        path = " ".join(
            f"{axis(value):.1f},{_BOTTOM - height * (number + 1) / len(ordered):.1f}" for number, value in enumerate(ordered)
        )
        lines.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        lines.append(f'<text x="{_RIGHT + 8}" y="{_TOP + 18 * place + 4}" fill="{colour}">{escape(name)}</text>')
    return svg(_RIGHT + 170, _BOTTOM + 50, lines, title)


def document(picture: str) -> str:
    """Return a picture as a file of its own, readable on any background."""
    head, _, rest = picture.partition(">")
    style = "<style>text{font:13px system-ui,sans-serif}</style>"
    return f'{head}>{style}<rect width="100%" height="100%" rx="6" fill="#ffffff"/>{rest}\n'


def _frame(x_axis: Axis, y_axis: Axis, across: str, up: str) -> Iterator[str]:
    yield from _grid_across(x_axis, across)
    for value in y_axis.ticks():
        y = y_axis(value)
        yield f'<line x1="{_LEFT}" x2="{_RIGHT}" y1="{y:g}" y2="{y:g}" stroke="#e4e4e4"/>'
        yield f'<text x="{_LEFT - 6}" y="{y + 4:g}" text-anchor="end">{value:g}</text>'
    yield f'<text x="{_LEFT}" y="{_TOP - 8}">{escape(up)}</text>'


def _grid_across(axis: Axis, label: str) -> Iterator[str]:
    for value in axis.ticks():
        x = axis(value)
        yield f'<line x1="{x:g}" x2="{x:g}" y1="{_TOP}" y2="{_BOTTOM}" stroke="#e4e4e4"/>'
        yield f'<text x="{x:g}" y="{_BOTTOM + 17}" text-anchor="middle">{value:,g}</text>'
    yield f'<text x="{(_LEFT + _RIGHT) / 2:g}" y="{_BOTTOM + 38}" text-anchor="middle">{escape(label)}</text>'


def _apart(heights: Sequence[float], least: float = 15) -> list[float]:
    """Move heights of labels apart, downwards.

    >>> _apart([10, 12, 50])
    [10, 25, 50]
    """
    moved = list(heights)
    order = sorted(range(len(heights)), key=lambda place: heights[place])
    for above, below in pairwise(order):
        moved[below] = max(moved[below], moved[above] + least)
    return moved
