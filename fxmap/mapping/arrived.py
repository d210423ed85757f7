"""Arrived: whether a model holds what was loaded into it, where its own code had a say in that.

A proof writes values into the parameters themselves. Loading goes through `load_state_dict`, and so through hooks and
overridden methods of the destination, which may change what they are given. There what the model holds is compared with what
was meant.
"""

import warnings
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fxmap.errors import LoadError, ProofWarning, shorten
from fxmap.files.lazy import materialise
from fxmap.mapping.findings import Findings
from fxmap.mapping.lazy_state import is_plain_tensor
from fxmap.mapping.proof import Status
from fxmap.model.replica import held_by_path

# What a run has shown of values that were written past such code.
_SHOWN = (Status.PROVEN, Status.TIED, Status.CLAIMED)


def loaded_by_own_code(dst: nn.Module, own: Collection[str]) -> list[str]:
    """Return the keys of modules that load themselves by code of their own, which may write more than the key it reads."""
    prefixes = tuple(
        f"{path}." if path else "" for path, module in dst.named_modules(remove_duplicate=False) if _has_own_code(module)
    )
    return [key for key in own if key.startswith(prefixes)] if prefixes else []


def _has_own_code(module: nn.Module) -> bool:
    kind = type(module)
    return bool(
        module._load_state_dict_pre_hooks
        or module._load_state_dict_post_hooks
        or kind.set_extra_state is not nn.Module.set_extra_state
        or (
            kind._load_from_state_dict is not nn.Module._load_from_state_dict and not kind.__module__.startswith("torch.nn.")
        )
    )


def refuse_changed(dst: nn.Module, keys: Collection[str], meant: Mapping[str, Any], findings: Findings) -> None:
    """Refuse a load after which a model holds other values than those that a run has shown to be right.

    Args:
        dst: the model, after the load.
        keys: those of modules with code of their own.
        meant: the values that were to be written.
        findings: of the mapping; of keys that are only matched a warning says it, and guessed ones are the model's business.

    Raises:
        LoadError: a key that is proven, or claimed to be, has another value.
    """
    if not keys:
        return
    held: dict[str, Any] = {**dst.state_dict(), **held_by_path(dst)}
    looked_at = (*_SHOWN, Status.MATCHED)
    asked = [key for key in keys if findings.statuses.get(key) in looked_at]
    changed = [key for key in asked if not _is_there(held.get(key), meant[key])]
    if not changed:
        return
    text = (
        f"{shorten(changed)}: a load hook or an overridden method of the destination changed the values that were written, "
        "so that it would not hold what the mapping makes"
    )
    if any(findings.statuses[key] in _SHOWN for key in changed):
        raise LoadError(
            f"{text}, and what a run has proven. Remove the hook, or write what mapping.apply(state_dict) makes past it, "
            "into dst.named_parameters() and dst.named_buffers(): dst.load_state_dict would change it again"
        )
    warnings.warn(text, ProofWarning, stacklevel=4)


def _is_there(held: Any, meant: Any) -> bool:
    if not is_plain_tensor(held) or not isinstance(meant, Tensor):
        return True
    return has_numbers(held, materialise(meant))


def has_numbers(held: Tensor, meant: Tensor) -> bool:
    """Whether a tensor holds some values in its own dtype; NaN is equal to NaN.

    >>> has_numbers(torch.tensor([1.0, float("nan")]), torch.tensor([1.0, float("nan")], dtype=torch.float64))
    True
    """
    if held.shape != meant.shape or not is_plain_tensor(meant):
        return held.shape == meant.shape
    with torch.no_grad():
        held, wanted = held.detach(), meant.detach().to(held.device, held.dtype)
        if held.is_floating_point() and held.element_size() == 1:
            held, wanted = held.float(), wanted.float()  # of numbers in 8 bits torch asks nothing
        return torch.equal(held, wanted) or bool(((held == wanted) | (held.isnan() & wanted.isnan())).all())
