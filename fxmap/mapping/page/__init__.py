"""Page: a mapping as one HTML file that needs no network: both graphs side by side, the keys, the proof.

The template, its style and its script stand beside this file. What a model or a checkpoint names (keys, modules) is data for
the script, which writes it as text, never as markup.

Cost: linear in the numbers of operations and keys; about 150 bytes for each operation and 200 for each key.
"""

import html
import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from fxmap.expressions.base import Expression
from fxmap.mapping.findings import Findings
from fxmap.mapping.graphs import Drawn, Graphs
from fxmap.mapping.next_steps import next_steps
from fxmap.mapping.outline import outline
from fxmap.mapping.patterns import patterns
from fxmap.mapping.proof import Proof, Status
from fxmap.mapping.report import kind_of


def page(
    expressions: Mapping[str, Expression],
    findings: Findings,
    proof: Proof,
    graphs: Graphs | None,
    title: str = "fxmap",
    loaded: bool = False,
) -> str:
    """Return the report of a mapping as one self-contained HTML document."""
    steps = [str(step) for step in next_steps(expressions, findings, proof, loaded)]
    data = _data(expressions, findings, proof, graphs) | {"title": title, "steps": steps}
    # Inside a script element only "</" and "<!--" would be markup.
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    found = {name: files(__package__).joinpath(name).read_text(encoding="utf-8") for name in _FILES}
    script = found["page.js"] + found["page.graphs.js"]
    document = found["page.html"].replace("/* style */", found["page.css"]).replace("/* script */", script)
    return document.replace("{{title}}", html.escape(title)).replace("{{data}}", text)


_FILES = ("page.html", "page.css", "page.js", "page.graphs.js")


def _data(expressions: Mapping[str, Expression], findings: Findings, proof: Proof, graphs: Graphs | None) -> dict[str, Any]:
    keys = {key: place for place, key in enumerate(findings.statuses)}
    shapes = {} if graphs is None else graphs.dst.shapes
    mismatched = {mismatch.key: mismatch for mismatch in findings.mismatched}
    rows = []
    for key, status in findings.statuses.items():
        expression, mismatch = expressions.get(key), mismatched.get(key)
        reason = findings.reasons.get(key, "")
        if mismatch is not None and not reason:
            reason = f"source {mismatch.source} is {list(mismatch.src_shape)}, here {list(mismatch.dst_shape)}"
        rows.append(
            {
                "key": key,
                "status": str(status),
                "from": "" if expression is None else str(expression),
                "kind": "" if expression is None else kind_of(key, expression),
                "python": "" if expression is None else f"{key!r}: {expression.python()},",
                "reads": [] if expression is None else sorted(expression.sources()),
                "shape": list(shapes[key]) if key in shapes else None,
                "reason": reason,
            }
        )
    left = findings.left or dict.fromkeys(findings.unexpected, "in the source alone")
    return {
        "verdict": proof.verdict,
        "ok": proof.ok,
        "made": len(expressions),
        "keys": rows,
        "patterns": [
            {
                "to": p.destination,
                "from": p.source,
                "where": "; ".join(map(str, p.indices)),
                "keys": [keys[k] for k in p.keys],
            }
            for p in patterns(expressions)
            if all(key in keys for key in p.keys)
        ],
        "meanings": {str(status): status.meaning for status in Status},
        "proof": proof.explain().splitlines(),
        "notes": [str(note) for note in findings.notes],
        "left": left,
        "stages": list(findings.stages),
        "rungs": list(findings.rungs),
        "divergence": None if proof.divergence is None else [proof.divergence.src, proof.divergence.dst],
        "graphs": None if graphs is None else _graphs(graphs),
    }


def _graphs(graphs: Graphs) -> dict[str, Any]:
    return {"src": _drawn(graphs.src), "dst": _drawn(graphs.dst), "pairs": [list(pair) for pair in graphs.pairs]}


def _drawn(drawn: Drawn) -> dict[str, Any]:
    operations = [[op.name, op.kind, op.module, list(op.reads), list(op.keys), op.text] for op in drawn.operations]
    return {"ops": operations, "shapes": {key: list(shape) for key, shape in drawn.shapes.items()}}


# Rows that a notebook shows at once.
_ROWS = 12


def notebook(expressions: Mapping[str, Expression], findings: Findings, proof: Proof, loaded: bool = False) -> str:
    """Return a short report for a notebook: the verdict, the patterns of the keys, and what to do next, without a script."""
    colour = "#1a7f37" if proof.ok else "#9a6700"
    lines = outline(expressions, findings.statuses)
    open_keys = [key for key, status in findings.statuses.items() if status in (Status.MISSING, Status.MISMATCHED)]
    steps = "".join(f"<li>{html.escape(str(step))}</li>" for step in next_steps(expressions, findings, proof, loaded))
    more = ""
    if len(lines) > _ROWS:
        rest = html.escape("\n".join(lines[_ROWS:]))
        more = f"<details><summary>{len(lines) - _ROWS} more lines</summary><pre>{rest}</pre></details>"
    lacking = f"<p>open: {html.escape(', '.join(open_keys[:_ROWS]))}</p>" if open_keys else ""
    return (
        f"<div><b style='color:{colour}'>{html.escape(proof.verdict)}</b>: {len(expressions)} of {len(findings.statuses)} "
        f"keys are made from the source<pre>{html.escape(chr(10).join(lines[:_ROWS]))}</pre>{more}{lacking}"
        f"<details><summary>proof</summary><pre>{html.escape(str(proof))}</pre></details>"
        f"<ul>{steps}</ul><small>mapping.to_html('map.html') writes both graphs and all keys</small></div>"
    )
