"""Verdict: whether a mapping may be written to the destination, given its proof."""

import warnings
from typing import Literal

from fxmap.errors import ArgumentError, DifferentNetworks, ProofError, ProofWarning, shorten
from fxmap.mapping.applying import refuse_unusable
from fxmap.mapping.findings import Mismatch, NoteKind
from fxmap.mapping.key_mapping import KeyMapping
from fxmap.mapping.proof import Status
from fxmap.mapping.verdict import refuse_refuted, warn_of_guesses

Verify = bool | Literal["required", "warn"]


def asked(verify: Verify) -> bool | Literal["required"]:
    """Return `verify` as true or false for `auto_map`; "required" is judged later, after the file was checked as well."""
    if not isinstance(verify, bool | str) or verify not in (True, False, "required", "warn"):
        raise ArgumentError(f'verify is True, False, "required" or "warn", not {verify!r}')
    return bool(verify)


def complete(mapping: KeyMapping, on_mismatch: Literal["raise", "keep"]) -> None:
    """Refuse a mapping that cannot be applied, or, with `on_mismatch="raise"`, one that leaves keys without a source.

    Raises:
        LoadError, QuantizationError, DifferentNetworks: as `KeyMapping.require_complete`.
    """
    if on_mismatch == "raise":
        refuse_unmapped(mapping)
        mapping.require_complete()
    else:
        refuse_unusable(mapping.knowledge)


def refuse_unmapped(mapping: KeyMapping) -> None:
    """Refuse a mapping by names and shapes that makes no layer whole, and has counterparts of other shapes.

    Where there are graphs, what has a counterpart of another shape has its place, and was replaced.

    Raises:
        DifferentNetworks: there is such a mapping.
    """
    findings = mapping.knowledge
    reasons = findings.notes_of(NoteKind.NO_GRAPH)
    open_layers = {key.rpartition(".")[0] for key in (*mapping.mismatched, *mapping.missing)}
    matrices = [one for one in findings.mismatched if len(one.dst_shape) > 1]
    if (
        not matrices
        or not reasons
        or any(map(_may_be_replaced, matrices))
        or any(key.rpartition(".")[0] not in open_layers for key in mapping)
    ):
        return
    first = matrices[0]
    raise DifferentNetworks(
        f"these two are different networks: no layer of the destination has its shapes in the source ({len(mapping)} of "
        f"{len(findings.statuses)} keys have); {first.key} is {list(first.dst_shape)}, and the closest, {first.source}, is "
        f"{list(first.src_shape)}. Nothing was written. Give two models of the same architecture and size ({reasons[0]})"
    )


def _may_be_replaced(one: Mismatch) -> bool:
    """Whether two matrices differ along one axis alone, as those of a head for other classes do."""
    shapes = one.src_shape, one.dst_shape
    return len(shapes[0]) == len(shapes[1]) and sum(a != b for a, b in zip(*shapes, strict=True)) == 1


def accept(mapping: KeyMapping, verify: Verify, *, guessed: bool = False) -> None:
    """Refuse a refuted mapping, and warn of one that is not proven, and of keys that only the order of a file decided.

    Args:
        mapping: the mapping that is about to be written.
        verify: as in `fxmap.transfer`.
        guessed: whether no source model was given; the user knows that nothing can be proven then.

    Raises:
        ProofError: the mapping is refuted, or not proven where that was required.
    """
    proof = mapping.proof
    warn_of_guesses(mapping.knowledge)
    for note in mapping.knowledge.notes_of(NoteKind.SCALED_INPUT):
        warnings.warn(str(note), ProofWarning, stacklevel=3)
    if proof.ok or verify is False:
        return
    if verify == "required":
        raise ProofError(f"not every key that the output depends on is proven: {proof}. Nothing was written")
    if proof.refuted:
        refuse_refuted(proof, verify)
    elif not guessed:
        where = f". {proof.divergence}" if proof.divergence else ""
        warnings.warn(f"{kept_apart(mapping) or proof.verdict}: {proof.reason}{where}", ProofWarning, stacklevel=3)


def kept_apart(mapping: KeyMapping) -> str:
    """Say that all is proven but what the destination keeps, where that is so; empty where it is not."""
    kept = [*mapping.mismatched, *mapping.missing]
    statuses = mapping.knowledge.statuses | mapping.proof.statuses
    rest = [status for key, status in statuses.items() if key not in kept]
    if not kept or Status.PROVEN not in rest or not all(status.is_done for status in rest):
        return ""
    keys = "the key" if len(kept) == 1 else f"the {len(kept)} keys"
    return f"all but {keys} that the destination keeps ({shorten(kept)}) is proven"
