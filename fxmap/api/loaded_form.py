"""Loaded form: whether a destination holds what its `load_state_dict` is given, where its own code has a say in that.

A proof is about the tensors that code reads. A load hook, or an overridden method, may halve a weight on its way there:
`load_into` refuses that after it has happened, and `dst.load_state_dict(mapping.apply(state))` asks nobody. So a copy of the
destination loads drawn numbers, and is asked for them.

>>> class Halved(nn.Linear):
...     def _load_from_state_dict(self, state_dict, prefix, *args):
...         state_dict[prefix + "weight"] = state_dict[prefix + "weight"] / 2
...         super()._load_from_state_dict(state_dict, prefix, *args)
>>> changed_by_loading(nn.Sequential(Halved(2, 2), nn.Linear(2, 2)), ["0.weight", "0.bias", "1.weight"])
['0.weight']

Cost: nothing for a destination that loads itself as torch does; else a copy of it.
"""

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import replace

import torch
from torch import Tensor, nn

from fxmap.errors import shorten
from fxmap.mapping.arrived import has_numbers, loaded_by_own_code
from fxmap.mapping.lazy_state import is_plain_tensor
from fxmap.mapping.proof import Proof
from fxmap.model.replica import held_by_path, is_on_meta, replicate
from fxmap.model.restoring import let_through


def of_what_is_loaded(proof: Proof, keys: Collection[str], dst: nn.Module) -> Proof:
    """Return a proof that is not ok where the destination changes what it is given of some keys when it loads them."""
    found = changed_by_loading(dst, keys) if proof.ok else []
    if not found:
        return proof
    reason = (
        f"{shorten(found)}: a load hook or an overridden method of the destination changes what dst.load_state_dict is "
        "given, so that the destination would not compute with what mapping.apply makes. Remove the hook, or write these "
        "values into dst.named_parameters() and dst.named_buffers()"
    )
    return replace(proof, ok=False, reason=reason)


def changed_by_loading(dst: nn.Module, keys: Collection[str]) -> list[str]:
    """Return the keys of which a model holds other numbers after it has loaded them; none if it does not load drawn numbers.

    The model is not changed.
    """
    own = loaded_by_own_code(dst, keys)
    if not own or is_on_meta(dst):
        return []
    copy, generator = replicate(dst, own=True), torch.Generator().manual_seed(0)
    state, held = dst.state_dict(), held_by_path(copy)
    asked = [key for key in own if key in held and _is_drawn(state.get(key)) and state[key].shape == held[key].shape]
    drawn = {key: torch.randn(held[key].shape, generator=generator).to(held[key]) for key in asked}
    given = OrderedDict({key: value.clone() if isinstance(value, Tensor) else value for key, value in state.items()} | drawn)
    # The versions of the modules, so that nothing is upgraded.
    given._metadata = getattr(state, "_metadata", None)  # type: ignore[attr-defined]
    meant = {key: value.clone() for key, value in drawn.items()}
    try:
        copy.load_state_dict(given, strict=False)
    except Exception as error:  # whatever code of a model raises on such numbers
        let_through(error)
        return []
    held = held_by_path(copy)
    return [key for key in asked if key in held and not has_numbers(held[key], meant[key])]


def _is_drawn(value: object) -> bool:
    return isinstance(value, Tensor) and is_plain_tensor(value) and value.is_floating_point() and value.element_size() > 1
