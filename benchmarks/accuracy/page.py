"""A page of a run: what was asked, who answered how, plots, and what it was made with. It needs nothing but itself."""

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

from benchmarks.accuracy.plots import MISSING, RIGHT, WRONG, bars, time_against_size
from benchmarks.accuracy.run import Row
from benchmarks.accuracy.totals import Total, groups_of, is_ours, mappers_of, totals
from benchmarks.common.output import write_text

_STYLE = """
body { font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; color: #1a1a1a }
body { max-width: 1080px; margin: 2.5em auto; padding: 0 1.5em }
h1 { font-size: 1.7em; margin-bottom: 0.2em } h2 { font-size: 1.2em; margin: 2.2em 0 0.4em }
p, li { max-width: 46em } code { font-size: 0.92em; background: #f3f3f3; padding: 0.1em 0.3em; border-radius: 3px }
table { border-collapse: collapse; font-size: 0.86em; font-variant-numeric: tabular-nums; margin: 0.6em 0 }
th, td { padding: 0.22em 0.7em; text-align: right; border-bottom: 1px solid #e8e8e8 }
th { vertical-align: bottom; font-weight: 600 }
th:first-child, td:first-child { text-align: left; white-space: nowrap } tr.ours td { font-weight: 600; background: #f2f8f6 }
td.best { color: #2a7f62; font-weight: 600 } td.bad { color: #c8553d }
td:last-child { white-space: nowrap } .scroll { overflow-x: auto }
svg { font: 12px system-ui, "DejaVu Sans", sans-serif; max-width: 100%; height: auto; display: block }
.key span { display: inline-block; width: 0.9em; height: 0.9em; margin: 0 0.35em 0 1.1em; vertical-align: -0.1em }
.small { color: #555; font-size: 0.87em } details { margin: 0.5em 0 }
"""

_ABOUT = {
    "Inception-v3": "Torchvision's model into its quantizable forms, into other libraries, renamed and shuffled.",
    "quantizable models": "Torchvision's float models into their quantizable, fused, prepared, QAT and int8 forms, and "
    "back; values bit by bit against what torch makes of the float weights.",
    "library to library": "Public implementations of one network under other names, projections joined or split.",
    "renamed and shuffled": "Every submodule renamed; some in another order; some with folded norms.",
    "partial matches": "Another number of classes, auxiliary heads, a backbone in a detector, fewer layers, another stem.",
    "random networks": "Drawn at random and written down twice: other names, other order, joined and transposed weights.",
    "names and shapes alone": "Two lists of keys and shapes, and no model at all.",
}


def write_page(path: Path, rows: Sequence[Row], about: dict[str, Any]) -> None:
    """Write the page of a run; `about` says what it was made with: versions, command, date, seconds."""
    body = "\n".join(_body(rows, about))
    write_text(
        path,
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>fxmap: accuracy of mapping</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n",
    )


def _body(rows: Sequence[Row], about: dict[str, Any]) -> Iterator[str]:
    found, groups = totals(rows), groups_of(rows)
    yield "<h1>Mapping the keys of one model onto another: fxmap and its peers</h1>"
    yield f'<p class="small">{escape(about.get("date", ""))} · <code>{escape(about.get("command", ""))}</code></p>'
    yield (
        "<p>Every mapper gets the same source and destination in the same run, in a process of its own. A key is "
        "<b>right</b> if it holds the value of a known map, or if the function is equal all the same; <b>wrong</b> if it "
        "was made with another value; <b>missing</b> if it was left out. A <b>function is equal</b> if a fresh destination, "
        "filled with what the mapper made, gives the right output within 1e-4. Weights and statistics are random.</p>"
    )
    yield "<h2>Pairs with equal function</h2>"
    yield _overview(found, groups, mappers_of(rows))
    yield "<h2>Keys right, wrong and missing</h2>"
    yield (
        f'<p class="key small"><span style="background:{RIGHT}"></span>right<span style="background:{WRONG}"></span>wrong'
        f'<span style="background:{MISSING}"></span>missing</p>'
    )
    for group in groups:
        own = {name: found[group, name] for name in mappers_of(rows) if (group, name) in found}
        if own:
            yield from _group(group, own)
    yield "<h2>Time against size</h2>"
    yield '<p class="small">Processor seconds of one thread for each case, without building the models and importing.</p>'
    yield time_against_size(rows)
    yield "<h2>Made with</h2>"
    yield _versions(about)
    yield "<h2>What was left out</h2><ul>"
    yield from (f"<li>{escape(line)}</li>" for line in about.get("remarks", ()))
    yield "</ul>"


def _overview(found: dict[tuple[str, str], Total], groups: Sequence[str], mappers: Sequence[str]) -> str:
    shown = [group for group in groups if any(found[name].judged for name in found if name[0] == group)]
    best = {group: max(total.equal for (g, _), total in found.items() if g == group) for group in shown}
    head = "".join(f"<th>{escape(group)}</th>" for group in shown)
    lines = [f"<tr><th>mapper</th>{head}<th>falsely certain</th></tr>"]
    for mapper in mappers:
        own = {group: found[group, mapper] for group in shown if (group, mapper) in found}
        if not own:
            continue
        cells = "".join(
            f'<td class="{"best" if group in own and own[group].equal == best[group] else ""}">'
            + (f"{own[group].equal} of {own[group].judged}</td>" if group in own else "</td>")
            for group in shown
        )
        lines.append(f"<tr{_class(mapper)}><td>{escape(mapper)}</td>{cells}{_certain(list(own.values()))}</tr>")
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'


def _certain(found: Sequence[Total]) -> str:
    claims, false = sum(total.claims for total in found), sum(total.false_claims for total in found)
    if not claims and not false:
        return "<td>says nothing</td>"
    return f'<td class="{"bad" if false else "best"}">{false} ({claims} called equal)</td>'


def _class(mapper: str) -> str:
    return ' class="ours"' if is_ours(mapper) else ""


def _group(group: str, found: dict[str, Total]) -> Iterator[str]:
    first = next(iter(found.values()))
    cases = f"{first.cases} case{'s' if first.cases > 1 else ''}"
    yield f"<h3>{escape(group)}: {cases}, {first.keys:,} keys</h3>"
    yield f'<p class="small">{escape(_ABOUT.get(group, ""))}</p>'
    yield bars(found)
    titles = ("answered", "function equal", "called equal", "falsely certain", "median s", "longest s", "peak MB")
    lines = ["<tr><th>mapper</th>" + "".join(f"<th>{title}</th>" for title in titles) + "</tr>"]
    for name, total in found.items():
        cells = (
            f"{total.answered} of {total.cases}",
            f"{total.equal} of {total.judged}" if total.judged else "",
            str(total.claims),
            str(total.false_claims),
            f"{total.seconds:.2f}",
            f"{total.longest:.1f}",
            str(total.peak_mb),
        )
        lines.append(f"<tr{_class(name)}><td>{escape(name)}</td>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    yield f'<details><summary class="small">Answers, time, memory</summary><table>{"".join(lines)}</table></details>'


def _versions(about: dict[str, Any]) -> str:
    known = about.get("versions", {}) | about.get("peers", {})
    text = ", ".join(f"{name} {version}" for name, version in known.items() if version is not None)
    return f'<p class="small">{escape(text)}</p>'
