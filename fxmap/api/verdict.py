"""Verdict: whether a mapping may be written to the destination, given its proof."""

import warnings
from typing import Literal

from fxmap.errors import ArgumentError, ProofError, ProofWarning
from fxmap.mapping.applying import refuse_unusable
from fxmap.mapping.key_mapping import KeyMapping
from fxmap.mapping.verdict import refuse_refuted, warn_of_guesses

Verify = bool | Literal["required", "warn"]


def asked(verify: Verify) -> bool | Literal["required"]:
    """Return `verify` as true or false for `auto_map`; "required" is judged later, after the file was checked as well."""
    if verify not in (True, False, "required", "warn"):
        raise ArgumentError(f'verify is True, False, "required" or "warn", not {verify!r}')
    return bool(verify)


def complete(mapping: KeyMapping, on_mismatch: Literal["raise", "keep"]) -> None:
    """Refuse a mapping that cannot be applied, or, with `on_mismatch="raise"`, one that leaves keys without a source.

    Raises:
        LoadError, QuantizationError, DifferentNetworks: as `KeyMapping.require_complete`.
    """
    if on_mismatch == "raise":
        mapping.require_complete()
    else:
        refuse_unusable(mapping.knowledge)


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
    if proof.ok or verify is False:
        return
    if verify == "required":
        raise ProofError(f"not every key that the output depends on is proven: {proof}. Nothing was written")
    if proof.refuted:
        refuse_refuted(proof, verify)
    elif not guessed:
        where = f". {proof.divergence}" if proof.divergence else ""
        warnings.warn(f"{proof.verdict}: {proof.reason}{where}", ProofWarning, stacklevel=3)
