"""Conclusions: the status of every key, whether the proof is ok, and what else is to be said.

Pure functions of the evidence: nothing runs here.

Cost: linear in the keys and the operations that read them.
"""

from collections.abc import Container, Mapping

from fxmap.errors import shorten
from fxmap.forms.store import COPY
from fxmap.graph.opgraph import TENSOR, OpGraph
from fxmap.mapping.key_mapping import KeyMapping
from fxmap.mapping.proof import SINGLE_TOLERANCE, Proof, Status
from fxmap.matching.sides import Side
from fxmap.prove.divergence import Verdict
from fxmap.prove.evidence import Evidence

# A key whose influence on the outputs, relative to them, is smaller than this has none: float64 rounds to 1e-16, and sums
# over a deep model lose three or four digits.
_NO_INFLUENCE = 1e-12


def conclude(
    mapping: KeyMapping, dst: Side, evidence: Evidence, verdict: Verdict, sound: Container[str], forwards: int
) -> Proof:
    """Draw the conclusions of the evidence.

    Args:
        mapping: what was proven, or not.
        dst: the destination.
        evidence: what the runs showed.
        verdict: what follows for the aligned operations.
        sound: the operations of the destination that are the same as their source.
        forwards: how many passes it took.
    """
    statuses = conclude_statuses(mapping, dst, evidence, sound)
    reason = open_reason(mapping, evidence, verdict, statuses)
    sizes = evidence.inputs.src.size, evidence.own_code.inputs.src.size
    return Proof(
        ok=not reason,
        statuses=statuses,
        error=evidence.error,
        divergence=verdict.divergence,
        forwards=forwards,
        inputs=sizes,
        reason=reason,
        notes=conclude_notes(evidence),
        differs=evidence.difference > 0 and not evidence.own_code.trouble,
        explained=verdict.explained,
    )


def conclude_statuses(mapping: KeyMapping, dst: Side, evidence: Evidence, sound: Container[str]) -> dict[str, Status]:
    """Return the status of every key: what was known before the proof, changed where the runs show more."""
    readers = _readers(dst.main.ops)
    statuses = dict(mapping.knowledge.statuses)
    for key, store in dst.twin.stores.items():
        if store.part == COPY:
            continue  # nothing reads it
        name, parts = dst.prefix + key, dst.names(key)
        users = [user for part in parts for user in readers.get(part, [])]
        if not users:
            continue
        if name in mapping:
            statuses[name] = _status(parts, users, evidence, sound)
        elif statuses[name] in (Status.MATCHED, Status.PROVEN, Status.TIED):
            statuses[name] = Status.MISSING
    return statuses


def _readers(ops: OpGraph) -> Mapping[str, list[str]]:
    """Return the operations that read each tensor, by path."""
    readers: dict[str, list[str]] = {}
    for op in ops.ops():
        for key in ops.stored(op) if op.kind == TENSOR else ():
            readers.setdefault(key, []).extend(user for user, _ in ops.users(op.name))
    return readers


def _status(parts: list[str], users: list[str], evidence: Evidence, sound: Container[str]) -> Status:
    """Return the status of a mapped key, from the tensors that it holds and the operations that read them."""
    influence = evidence.influence
    if not all(user in sound for user in users) or any(part in influence.unreached for part in parts):
        return Status.MATCHED
    if all(influence.sizes.get(part, 0.0) <= _NO_INFLUENCE for part in parts):
        return Status.INERT
    return Status.TIED if any(user in evidence.tied for user in users) else Status.PROVEN


def open_reason(mapping: KeyMapping, evidence: Evidence, verdict: Verdict, statuses: Mapping[str, Status]) -> str:
    """Say what is left open, the gravest first; nothing where the proof is ok."""
    unread = mapping.knowledge.unread
    open_keys = [key for key, status in statuses.items() if key not in unread and not status.is_done]
    if mapping.mismatched:
        return f"{shorten(mapping.mismatched)}: of another shape in the source"
    if evidence.own_code.trouble:
        return f"the models do not run with these tensors: {evidence.own_code.trouble}"
    if evidence.difference:
        return (
            f"the outputs differ by {evidence.difference:.1e}"
            if evidence.difference < float("inf")
            else "the outputs are of other shapes or not finite"
        )
    if verdict.divergence is not None:
        return "operations differ on the way to equal outputs, so other inputs may give other outputs"
    if open_keys:
        unreached = sorted(evidence.influence.unreached)
        partly = f"; the inputs do not reach all of {shorten(unreached)}" if unreached else ""
        return f"{shorten(open_keys)} not proven{partly}"
    if not (evidence.inputs.roomy and evidence.own_code.inputs.roomy):
        return "the inputs are not larger than every kernel that meets them; pass larger example_inputs"
    return ""


def conclude_notes(evidence: Evidence) -> tuple[str, ...]:
    """Return what else a reader of the proof should know."""
    notes = []
    if evidence.tried:
        notes.append(f"{evidence.tried} alternatives were tried, and refuted or found tied")
    ours, theirs = evidence.outputs
    if ours != theirs:
        which = ", ".join(f"{i} is {j}" for i, j in evidence.returned) or "none corresponds"
        notes.append(f"the source returns {ours} tensors, the destination {theirs}: {which}")
    if evidence.rounded:
        notes.append(
            f"tables that the models make in single precision differ by rounding ({shorten(evidence.rounded)}): "
            f"what is computed from them was compared within {SINGLE_TOLERANCE:g}"
        )
    return tuple(notes)
