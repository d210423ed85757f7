"""Conclusions: the status of every key, whether the proof is ok, and the notes for its reader.

Pure functions of the evidence: nothing runs here.

Cost: linear in the keys and the operations that read them.
"""

from collections.abc import Container, Iterable, Mapping
from dataclasses import replace

from fxmap.errors import shorten
from fxmap.expressions.layout import Placed
from fxmap.forms.store import COPY
from fxmap.graph.opgraph import TENSOR, OpGraph
from fxmap.mapping.key_mapping import KeyMapping
from fxmap.mapping.proof import SINGLE_TOLERANCE, Proof, Scope, Status
from fxmap.matching.sides import Side
from fxmap.model.inputs import settings_of
from fxmap.prove.audits.audit import Audit
from fxmap.prove.examine import Examination
from fxmap.prove.graphs.divergence import Verdict
from fxmap.prove.runs.evidence import Evidence
from fxmap.prove.state.tables import kept_tables

# A key whose influence on the outputs, relative to them, is smaller than this has none: float64 rounds to 1e-16, and sums
# over a deep model lose three or four digits.
_NO_INFLUENCE = 1e-12


def conclude(
    mapping: KeyMapping,
    dst: Side,
    evidence: Evidence,
    verdict: Verdict,
    sound: Container[str],
    examined: Examination,
    forwards: int,
) -> Proof:
    """Return the proof that follows from the evidence.

    Args:
        mapping: the mapping that the proof is about.
        dst: the destination.
        evidence: the results of the runs.
        verdict: the first divergence, and the operations that are the same as their source.
        sound: the operations of the destination that are the same as their source.
        examined: the results of the models' own code on other inputs, and with other tensors.
        forwards: the number of forward passes of the proof.
    """
    statuses = conclude_statuses(mapping, dst, evidence, sound, examined)
    refuted = refuted_reason(examined.audit)
    open_ = refuted or open_reason(mapping, evidence, verdict, statuses) or examined_reason(mapping, dst, examined)
    reason = "; ".join(filter(None, (unmapped_reason(examined), open_)))
    return Proof(
        ok=not reason,
        statuses=statuses,
        error=max(evidence.error, examined.audit.error),
        divergence=verdict.divergence,
        forwards=forwards,
        inputs=(evidence.inputs.src.size, evidence.own_code.inputs.src.size),
        reason=reason,
        notes=(*conclude_notes(evidence, examined.audit), *unread_notes(mapping, dst, statuses, examined)),
        differs=evidence.difference > 0 and not evidence.own_code.trouble and bool(evidence.returned),
        explained=verdict.explained,
        own_state=() if open_ else examined.unmapped,
        scope=Scope(examined.audit.agreed, examined.audit.varied, examined.audit.fixed, avoided=examined.audit.avoided),
    )


def still_tensors(mapping: KeyMapping, dst: Side, evidence: Evidence, sound: Container[str]) -> list[str]:
    """Return the paths of the tensors that seem to have no influence: their gradient is 0, or no operation reads them."""
    statuses = conclude_statuses(mapping, dst, evidence, sound, Examination())
    unread = mapping.knowledge.unread
    names = [key.removeprefix(dst.prefix) for key, status in statuses.items() if status is Status.INERT or key in unread]
    found = {part for name in names if name in dst.twin.stores for part in dst.names(name)}
    return [path for path in dst.main.tensors if path in found]


def conclude_statuses(
    mapping: KeyMapping, dst: Side, evidence: Evidence, sound: Container[str], examined: Examination
) -> dict[str, Status]:
    """Return the status of every key: that from before the proof, updated where the runs show more."""
    readers = _readers(dst.main.ops)
    statuses, kept = dict(mapping.knowledge.statuses), kept_tables(mapping, dst)
    for key, store in dst.twin.stores.items():
        if store.part == COPY:
            continue  # nothing reads it
        name, parts = dst.prefix + key, dst.names(key)
        users = [user for part in parts for user in readers.get(part, [])]
        if not users:
            # The graph does not read it; the user's own code may.
            if parts and all(part in examined.permuted for part in parts):
                statuses[name] = Status.PROVEN
                continue
            moving = any(part in examined.moving or part in examined.unlike for part in parts)
            if moving and name not in kept:
                statuses[name] = Status.MATCHED
            continue
        if isinstance(mapping.get(name), Placed):
            continue  # of rows that the source does not have, nothing is shown
        if name in mapping:
            statuses[name] = _status(parts, users, evidence, sound, examined)
        elif statuses[name] in (Status.MATCHED, Status.CLAIMED, Status.PROVEN, Status.TIED):
            statuses[name] = Status.MISSING
    return statuses


def _readers(ops: OpGraph) -> Mapping[str, list[str]]:
    """Return the operations that read each tensor, by path."""
    readers: dict[str, list[str]] = {}
    for op in ops.ops():
        for key in ops.stored(op) if op.kind == TENSOR else ():
            readers.setdefault(key, []).extend(user for user, _ in ops.users(op.name))
    return readers


def _status(parts: list[str], users: list[str], evidence: Evidence, sound: Container[str], examined: Examination) -> Status:
    """Return the status of a mapped key, from the tensors that it holds and the operations that read them."""
    influence = evidence.influence
    if examined.audit.refuted or examined.audit.unpaired:
        return Status.MATCHED
    if any(part in examined.permuted for part in parts):
        return Status.PROVEN
    if any(part in examined.unlike for part in parts):
        return Status.MATCHED
    if not all(user in sound for user in users) or any(part in influence.unreached for part in parts):
        return Status.MATCHED
    moves = any(part in examined.moving for part in parts)
    if not moves and all(influence.sizes.get(part, 0.0) <= _NO_INFLUENCE for part in parts):
        return Status.INERT
    if moves and not examined.audit.ran:
        return Status.MATCHED  # nothing shows that it moves both models alike
    return Status.TIED if any(user in evidence.tied for user in users) else Status.PROVEN


def open_reason(mapping: KeyMapping, evidence: Evidence, verdict: Verdict, statuses: Mapping[str, Status]) -> str:
    """Return the gravest reason why a proof is not ok; empty where it is ok."""
    unread = mapping.knowledge.unread
    open_keys = [key for key, status in statuses.items() if key not in unread and not status.is_done]
    mismatched = [key for key in mapping.mismatched if key not in unread]
    replaced = [key for key in mismatched if key not in mapping]
    if replaced:
        return f"{shorten(replaced)}: of another shape in the source"
    if evidence.own_code.trouble:
        return f"the models cannot be compared with these tensors: {evidence.own_code.trouble}"
    if evidence.difference:
        return (
            f"the outputs differ by {evidence.difference:.1e}"
            if evidence.difference < float("inf")
            else "the outputs are of other shapes or not finite"
        )
    if verdict.divergence is not None:
        return "operations differ on the way to equal outputs, so other inputs may give other outputs"
    if mismatched:
        return "; ".join(mapping.knowledge.reasons[key] for key in mismatched)
    if open_keys:
        unreached = sorted(evidence.influence.unreached)
        partly = f"; the inputs do not reach all of {shorten(unreached)}" if unreached else ""
        return f"{shorten(open_keys)} not proven{partly}"
    if not (evidence.inputs.roomy and evidence.own_code.inputs.roomy):
        return "the inputs are not larger than every kernel that meets them; pass larger example_inputs"
    return ""


def open_keys(statuses: Mapping[str, Status], unread: Container[str]) -> list[str]:
    """Return the keys without a source that the destination's graph reads: with them, no part of it can be shown.

    >>> open_keys({"a": Status.MISSING, "b": Status.MISSING, "c": Status.MATCHED}, ("b",))
    ['a']
    """
    without = (Status.MISSING, Status.MISMATCHED)
    return [key for key, status in statuses.items() if status in without and key not in unread]


def refuted_reason(found: Audit) -> str:
    """Return the inputs on which the models' own code differs, or why outputs cannot be compared; empty otherwise."""
    if found.refuted:
        return f"the models' own code differs by {found.error:.1e} on other inputs: {found.refuted}"
    return found.unpaired


def unmapped_reason(examined: Examination) -> str:
    """Return, as a reason, the source's state that moves its outputs and is not mapped; empty if there is none."""
    if not examined.unmapped:
        return ""
    return (
        f"{shorten(list(examined.unmapped))}: state of the source that moves its outputs, and of which nothing in the "
        "destination is made; a checkpoint may hold other values. Give the destination the same state, or map it by hand"
    )


def examined_reason(mapping: KeyMapping, dst: Side, examined: Examination) -> str:
    """Return, as a reason, the tensors or inputs that stay unproven though the models' own code agrees; empty if none do."""
    found = examined.audit
    if found.unlike:
        return (
            f"{found.unlike}: both models name it, the example leaves it out, and one of them takes tensors for it that the "
            "other one refuses: pass an example that has it"
        )
    if found.untaken and found.never is not None:
        return (
            f"the models' own code chooses at {found.untaken}: no run made this {found.never}, and the models differ where "
            "one does; pass example_inputs that do, if such inputs are valid"
        )
    if found.untaken:
        return (
            f"the models' own code decides by values at {found.untaken}, the same way in all runs, and the models differ "
            "where it goes the other way; pass example_inputs for which it does"
        )
    kept = {part for key in kept_tables(mapping, dst) for part in dst.names(key.removeprefix(dst.prefix))}
    if examined.unlike:
        return (
            f"{shorten(sorted(examined.unlike))}: with other values of it, which the mapping hands on, the outputs differ: "
            "the code of one model reads it, and that of the other does not, or makes something else of it"
        )
    known = kept | examined.permuted
    unread = [path for path in examined.moving if path not in dst.main.read and path not in known]
    if unread:
        return f"{shorten(sorted(unread))}: the graph does not read it, and the destination's own code does"
    if found.fixed:
        return (
            f"{shorten(list(found.fixed))}: no other values of this input were accepted by both models, so that what "
            "depends on them is not shown; pass example_inputs in which they vary"
        )
    return ""


def behind(ops: OpGraph, parted: Iterable[str]) -> set[str]:
    """Return the operations downstream of the given ones, in O(n + m)."""
    found, waiting = set[str](), list(parted)
    while waiting:
        users = {user for user, _ in ops.users(waiting.pop())} - found
        found |= users
        waiting += users
    return found


def conclude_notes(evidence: Evidence, found: Audit) -> tuple[str, ...]:
    """Return the notes of a proof: unproven parts, alternatives tried, how outputs correspond, and rounding of tables."""
    notes = []
    settings = [f"{name}={text}" for name, text in settings_of(evidence.inputs.src) if name not in found.varied]
    if settings:
        notes.append(f"with {shorten(settings)}, as given: what other values do was not run")
    if found.ungiven:
        notes.append(
            f"{shorten(list(found.ungiven))}: both models name it, and took nothing for it that was tried: what they do "
            "with it was not compared; pass an example that has it"
        )
    if found.blind:
        notes.append(
            "a tracer was set (sys.settrace), as by a debugger, and left alone: which branches of the models' code were "
            "taken was not watched"
        )
    if found.lacking:
        which, inputs = found.lacking
        notes.append(
            f"of some samples the {which} makes no numbers, and the other model does ({inputs}): these were not compared"
        )
    if evidence.parted:
        parted = shorten(sorted(dst for _, dst in evidence.parted))
        notes.append(
            f"behind {parted} the destination was compared on the source's values: "
            "keys that are read there are matched, not proven"
        )
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


def unread_notes(mapping: KeyMapping, dst: Side, statuses: Mapping[str, Status], examined: Examination) -> tuple[str, ...]:
    """Return a note of weights that no run of the destination read: a branch that was not taken may use them otherwise."""
    names = {dst.prefix + key: dst.names(key) for key, store in dst.twin.stores.items() if store.part != COPY}
    found = [
        key
        for key in mapping.knowledge.unread
        if statuses.get(key) is Status.MATCHED and examined.moving.isdisjoint(names.get(key, ()))
    ]
    return (f"{shorten(found)}: not read in any run, and matched by place alone",) if found else ()


def without_decisions(proof: Proof, decisions: Iterable[str]) -> Proof:
    """Return a proof that is not ok where a model's own graph decides by values, as an If of ONNX or of TorchScript may."""
    reason = "the file's own graph takes numbers out of tensors ({}), and may decide by them"
    return _not_ok(proof, decisions, f"{reason}: other inputs may take another branch")


def without_scripts(proof: Proof, names: Iterable[str]) -> Proof:
    """Return a proof that is not ok where one model alone has scripted code that decides; `names` are its functions."""
    reason = "scripted code that decides, in one of the models alone ({}): no run turns its decisions round"
    return _not_ok(proof, names, f"{reason}; give the model the function before torch.jit.script")


def _not_ok(proof: Proof, names: Iterable[str], reason: str) -> Proof:
    """Return a proof that is not ok if there are names, which the reason has in its braces."""
    found = list(dict.fromkeys(names))
    return replace(proof, ok=False, reason=reason.format(shorten(found))) if found and proof.ok else proof


def without_writes(proof: Proof, written: Iterable[str]) -> Proof:
    """Return a proof that is not ok where a graph leaves out in-place writes; `written` names these operations."""
    found = list(dict.fromkeys(written))
    if not found:
        return proof
    shown = {key: status for key, status in proof.statuses.items() if not status.is_proven and status is not Status.INERT}
    statuses = dict.fromkeys(proof.statuses, Status.MATCHED) | shown
    reason = f"writes in place that the graph does not explain: {shorten(found)}"
    return replace(proof, ok=False, statuses=statuses, reason=f"{reason}; {proof.reason}" if proof.reason else reason)
