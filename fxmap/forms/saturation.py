"""Int8 ranges that end where an activation of the source saturates."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

# Relu module of the destination -> (the module whose range bounds it, the upper bound).
Saturations = Mapping[str, tuple[str, float]]


_LEVELS = 255


FULL_RANGE = (
    "these ranges use all of 0..255: kernels that add pairs of products in 16 bits can overflow there, as those of "
    "depthwise convolutions do in the engines x86 and fbgemm, and others on CPUs without VNNI; qnnpack's do not"
)


@contextmanager
def saturated(module: nn.Module, found: Saturations) -> Iterator[None]:
    """Clamp the relus of a float twin at their bounds inside a `with` block, as int8 saturation will."""

    def clamp_at(bound: float) -> Any:
        return lambda _, __, output: output.clamp(max=bound)

    # Before observers, which are hooks as well.
    handles = [
        module.get_submodule(path).register_forward_hook(clamp_at(bound), prepend=True) for path, (_, bound) in found.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def saturating_ranges(state: Mapping[str, Any], found: Saturations) -> dict[str, Tensor]:
    """Return scales and zero points with which int8 activations end at their bound; ranges that end below it stay.

    All of 0..255 is used, where observers that leave a bit of headroom (reduce_range) would end at twice the bound.

    >>> state = {"a.scale": torch.tensor(0.1), "a.zero_point": torch.tensor(0)}
    >>> round(float(saturating_ranges(state, {"a.1": ("a", 6.0)})["a.scale"]) * 255, 5)
    6.0
    """
    changed: dict[str, Tensor] = {}
    for owner, bound in found.values():
        scale, zero_point = state[f"{owner}.scale"], state[f"{owner}.zero_point"]
        if float(scale) * (_LEVELS - int(zero_point)) <= bound:
            continue
        low = -float(scale) * int(zero_point)
        step = (bound - low) / _LEVELS
        changed[f"{owner}.scale"] = torch.full_like(scale, step)
        changed[f"{owner}.zero_point"] = torch.full_like(zero_point, round(-low / step))
    return changed
