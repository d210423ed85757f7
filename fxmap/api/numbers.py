"""Numbers of a source that no model can use: NaN and infinity, and variances below zero, whose root is NaN."""

import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from fxmap.errors import ProofWarning, shorten
from fxmap.expressions.values import below_zero, said_before, spoiled
from fxmap.files.lazy import LazyTensor, materialise

# Bytes of tensors that stay in their file up to which these are read for it, too: they are read once more to be written.
_READ = 2_000_000_000


@contextmanager
def numbers_said(state: Mapping[str, Any], read: Collection[str]) -> Iterator[None]:
    """Warn of tensors that a mapping reads and that hold NaN, infinity or negative variances, with their count.

    A proof draws weights at random and does not see them. Lazy tensors are left out where they are many gigabytes. Inside
    the `with` block, the expressions that are computed of these tensors do not say it again.

    Cost: one look at each number.
    """
    lazy = sum(v.numel() * v.element_size() for k in read if isinstance(v := state.get(k), LazyTensor))
    looked_at = [key for key in read if lazy <= _READ or not isinstance(state.get(key), LazyTensor)]
    _warn(state, looked_at)
    with said_before() if len(looked_at) == len(read) else nullcontext():
        yield


def _warn(state: Mapping[str, Any], read: Collection[str]) -> None:
    found = {
        key: what
        for key in read
        if isinstance(value := state.get(key), Tensor) and not value.is_meta and (what := _unusable(key, materialise(value)))
    }
    if found:
        shown = shorten([f"{key}: {what}" for key, what in found.items()])
        warnings.warn(
            f"{len(found)} tensors of the source hold numbers that no model can use: {shown}. They are taken as they are, "
            "and what reads them gives NaN or infinity: take a checkpoint from before the training diverged",
            ProofWarning,
            stacklevel=6,
        )


def _unusable(key: str, value: Tensor) -> str:
    """Say how many numbers of a tensor cannot be used; empty where all can.

    >>> _unusable("fc.weight", torch.tensor([1.0, float("nan")])), _unusable("bn.running_var", torch.tensor([-1.0, 1.0]))
    ('1 of 2 not finite', '1 of 2 below zero')
    """
    if count := spoiled(value):
        # A mask is filled with infinity.
        return "" if _is_mask(value) else f"{count} of {value.numel()} not finite"
    if key.rpartition(".")[2] == "running_var" and (count := below_zero(value)):
        return f"{count} of {value.numel()} below zero"
    return ""


def _is_mask(value: Tensor) -> bool:
    return bool(((value == 0) | (value == -torch.inf)).all())
