"""Verdict: what a proof says of a mapping that is about to be written."""

import warnings
from typing import Literal

from fxmap.errors import ProofError, ProofWarning
from fxmap.mapping.applying import refuse_unusable
from fxmap.mapping.key_mapping import KeyMapping

Verify = bool | Literal["required", "warn"]


def asked(verify: Verify) -> bool | Literal["required"]:
    """Return what `auto_map` is to do; "required" is decided later, when the file was looked at as well."""
    if verify not in (True, False, "required", "warn"):
        raise ValueError(f'verify is True, False, "required" or "warn", not {verify!r}')
    return bool(verify)


def complete(mapping: KeyMapping, on_mismatch: Literal["raise", "keep"]) -> None:
    """Refuse a mapping that cannot be applied, or that leaves keys without a source where that is not wanted.

    Raises:
        LoadError, QuantizationError, DifferentNetworks: as `KeyMapping.require_complete`.
    """
    if on_mismatch == "raise":
        mapping.require_complete()
    else:
        refuse_unusable(mapping.knowledge)


def accept(mapping: KeyMapping, verify: Verify, *, guessed: bool = False) -> None:
    """Refuse what a run has refuted, and warn of what it has not proven.

    Args:
        mapping: what is about to be written.
        verify: as in `fxmap.transfer`.
        guessed: whether there was no model of the source, so that nothing could be proven, as the user knows.

    Raises:
        ProofError: the mapping is refuted, or not proven where that was required.
    """
    proof = mapping.proof
    if proof.ok or verify is False:
        return
    if verify == "required":
        raise ProofError(f"not every key that the output depends on is proven: {proof}. Nothing was written")
    if proof.refuted and verify != "warn":
        raise ProofError(
            f"both models were run with the mapped weights, and their outputs differ (relative error {proof.error:.1e}), "
            "which nothing that is known of the two models explains: the mapping is wrong. "
            f"{proof.divergence or proof.reason}. Nothing was written. Look at fxmap.auto_map(src, dst), correct it by "
            'hand: fxmap.KeyMapping(dict(mapping) | {key: source_key}); or pass verify="warn" to write it all the same, '
            "with a warning, or verify=False to run nothing"
        )
    if not guessed:
        where = f". {proof.divergence}" if proof.divergence else ""
        warnings.warn(f"{proof.verdict}: {proof.reason}{where}", ProofWarning, stacklevel=3)
