"""A mapping as JSON: expressions and findings, no values and no proof; what a file calls proven is read as a claim.

That a run refuted the mapping is kept: a file that says so is believed.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from fxmap.errors import MappingError
from fxmap.expressions.base import Expression
from fxmap.expressions.serial import parse
from fxmap.mapping.findings import Findings, Mismatch, Note, NoteKind
from fxmap.mapping.proof import Proof, Status

_FORMAT = 1


def write_json(expressions: Mapping[str, Expression], findings: Findings, proof: Proof) -> str:
    """Write a mapping as JSON; of its proof, whether and by what a run refuted it.

    Notes stay sentences, as in files that were written before notes had kinds; `note_kinds` says the kind of each.
    """
    literals = {name: [part.to_json() for part in pair] for name, pair in findings.literals.items()}
    known = asdict(replace(findings, literals={})) | {
        "literals": literals,
        "stages": list(findings.stages),
        "note_kinds": [note.kind for note in findings.notes],
    }
    written = {key: expression.to_json() for key, expression in expressions.items()}
    known["saturating"] = {path: [owner, _in_json(bound)] for path, (owner, bound) in findings.saturating.items()}
    data = {"fxmap": _FORMAT, "expressions": written, "knowledge": known}
    if proof.refuted:
        words = str(proof.divergence or proof.reason)
        data["refuted"] = {"error": _in_json(proof.error), "forwards": proof.forwards, "reason": words}
    return json.dumps(data, indent=1, allow_nan=False)


def _in_json(number: float) -> float | str:
    return number if math.isfinite(number) else str(number)


def read_json(text: str | bytes | bytearray) -> tuple[dict[str, Expression], Findings, Proof | None]:
    """Read expressions and findings from the JSON that `write_json` writes; proven keys are claimed to be so.

    The proof is that of a mapping that a run refuted, and None for any other.

    Raises:
        MappingError: the text is not such JSON; the message says where.
    """
    try:
        data = json.loads(text)
        if not isinstance(data, dict) or "fxmap" not in data:
            raise MappingError(
                "not a mapping that fxmap wrote: its JSON has no entry 'fxmap'. A dict of destination keys to source keys "
                "is one by hand: fxmap.KeyMapping(dict)"
            )
        if data["fxmap"] != _FORMAT:
            raise MappingError(f"a mapping of format {data['fxmap']!r}; this fxmap reads format {_FORMAT}")
        expressions = {str(key): parse(value) for key, value in data["expressions"].items()}
        findings = _findings(dict(data["knowledge"]))
        if strangers := [key for key in expressions if key not in findings.statuses]:
            raise MappingError(f"not a mapping that fxmap wrote: {strangers[0]!r} has an expression, and no status")
        return expressions, findings, _refuted(data.get("refuted"), findings)
    except MappingError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise MappingError(f"not a mapping that fxmap wrote: {type(error).__name__}: {error}") from error


def _refuted(said: Any, findings: Findings) -> Proof | None:
    """Return the proof of a mapping that a run refuted before it was written to the file."""
    if said is None:
        return None
    error, forwards = float(said["error"]), int(said["forwards"])
    proof = Proof(statuses=findings.statuses, error=error, forwards=forwards, reason=_text(said["reason"]), differs=True)
    if not proof.refuted:
        raise MappingError(f"not a mapping that fxmap wrote: refuted by {said!r}, which refutes nothing")
    return proof


def _findings(known: dict[str, Any]) -> Findings:
    """Read findings; those that an older fxmap wrote lack some fields."""
    known["statuses"] = {str(key): Status(value).unverified for key, value in known["statuses"].items()}
    known["mismatched"] = tuple(map(_mismatch, known["mismatched"]))
    for name in ("unexpected", "unread", "ranges", "by_order"):
        known[name] = tuple(_text(part) for part in known.get(name, ()))
    for name in ("reasons", "left"):
        known[name] = {str(key): _text(value) for key, value in known.get(name, {}).items()}
    for name in ("different", "blocked"):
        known[name] = _text(known[name])
    texts = [str(text) for text in known["notes"]]
    kinds = known.pop("note_kinds", [NoteKind.OTHER] * len(texts))
    known["notes"] = tuple(Note(text, NoteKind(kind)) for text, kind in zip(texts, kinds, strict=True))
    for name in ("stages", "rungs"):
        src, dst = known[name]
        known[name] = str(src), str(dst)
    known["saturating"] = {
        str(path): (str(owner), float(bound)) for path, (owner, bound) in known.get("saturating", {}).items()
    }
    known["literals"] = {
        str(name): (parse(scale), parse(zero_point)) for name, (scale, zero_point) in known.get("literals", {}).items()
    }
    known["versions"] = {str(path): int(version) for path, version in known.get("versions", {}).items()}
    known["src_shapes"] = {str(key): tuple(map(int, shape)) for key, shape in known.get("src_shapes", {}).items()}
    return Findings(**known)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a sentence or a key, not {value!r}")
    return value


def _mismatch(known: Any) -> Mismatch:
    src, dst = (tuple(int(length) for length in known[name]) for name in ("src_shape", "dst_shape"))
    return Mismatch(_text(known["key"]), _text(known["source"]), src, dst)
