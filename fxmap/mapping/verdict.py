"""Verdict: a mapping that a run has refuted, or with which outputs differ, is not written without a word."""

import warnings
from collections.abc import Collection, Mapping
from typing import Any, Literal

from fxmap.errors import ProofError, ProofWarning, shorten
from fxmap.mapping.applying import unknown_in
from fxmap.mapping.findings import Findings, NoteKind
from fxmap.mapping.proof import Proof, Status


def warn_of_guesses(findings: Findings) -> None:
    """Warn of what names do not tell: keys that nothing but the order of a file decided, and the order of joined rows.

    If it is wrong, no shape and no error shows it.
    """
    for note in findings.notes_of(NoteKind.BY_ORDER, NoteKind.LAYOUT):
        warnings.warn(str(note), ProofWarning, stacklevel=3)


def warn_of_kept(made: Collection[str], findings: Findings, own: Mapping[str, Any]) -> None:
    """Warn of the keys without a source that the output depends on, and that keep the destination's own values.

    >>> import torch
    >>> warn_of_kept({"fc.weight"}, Findings({"fc.weight": Status.MATCHED}), {"fc.weight": torch.ones(2)})
    """
    shapes = {one.key: f" (source {one.source} {list(one.src_shape)})" for one in findings.mismatched}
    absent = [*findings.keys_with(Status.MISMATCHED), *findings.keys_with(Status.MISSING)]
    rows = [findings.reasons[key] for key in absent if key in made and key in findings.reasons]
    if rows:
        warnings.warn(f"{'; '.join(rows)}: the destination keeps its own there", ProofWarning, stacklevel=3)
    absent = [key for key in absent if key not in made and key not in findings.unread]
    kept = [f"{key}{shapes.get(key, '')}" for key in (*absent, *unknown_in(made, findings, own))]
    if kept:
        keeps = (
            "1 key of the destination keeps its own value"
            if len(kept) == 1
            else (f"{len(kept)} keys of the destination keep their own values")
        )
        warnings.warn(f"{keeps}, as nothing was made for {shorten(kept)}", ProofWarning, stacklevel=3)


def warn_of_refuted(proof: Proof, use: str) -> None:
    """Warn where a mapping that a run refuted is used otherwise than by `load_into`; `use` says for what.

    >>> warn_of_refuted(Proof(ok=True, forwards=6), "apply")
    """
    if proof.refuted:
        text = f"{use}: both models were run with this mapping, and it is wrong (relative error {proof.error:.1e})"
        warnings.warn(f"{proof.verdict}: {text}. {proof.divergence or proof.reason}", ProofWarning, stacklevel=3)


def refuse_refuted(proof: Proof, verify: bool | Literal["warn"] = True) -> None:
    """Raise an error where a run refuted the mapping, or warn of it with `verify="warn"`; warn where outputs differ.

    Raises:
        ProofError: the mapping is refuted.

    >>> refuse_refuted(Proof(forwards=6, error=0.4, differs=True))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    fxmap.errors.ProofError: both models were run with the mapped weights, and their outputs differ ...
    """
    if verify is False:
        return
    if not proof.refuted:
        if proof.forwards and proof.differs:
            where = f". {proof.divergence}" if proof.divergence else ""
            warnings.warn(f"{proof.verdict}: {proof.reason}{where}", ProofWarning, stacklevel=3)
        return
    text = (
        f"both models were run with the mapped weights, and their outputs differ (relative error {proof.error:.1e}), "
        f"which nothing that is known of the two models explains: the mapping is wrong. {proof.divergence or proof.reason}"
    )
    if verify == "warn":
        warnings.warn(f"{proof.verdict}: {text}", ProofWarning, stacklevel=3)
        return
    raise ProofError(
        f"{text}. Nothing was written. Look at fxmap.auto_map(src, dst), correct it by hand: "
        'fxmap.KeyMapping(dict(mapping) | {key: source_key}); or pass verify="warn" to write it all the same, with a '
        "warning, or verify=False to write it without one"
    )
