"""Lone tensors: a part of a computed weight whose other parts the file lacks. Alone it is not the weight.

`weight_orig` without its mask is the weight before it was pruned, `weight_v` without `weight_g` a direction without a size,
and numbers of 8 bits in floating point (fp8) without a scale are weights only where they were not scaled when they were
stored. That shows in the file: other weights of it have scales, or the numbers fill the whole range of their dtype.

Cost: linear in the number of keys; the numbers of a few tensors are read, where no weight of the file has a scale.
"""

from collections.abc import Mapping
from itertools import filterfalse
from typing import Any

import torch
from torch import Tensor

from fxmap.files.computed.kind import View
from fxmap.files.lazy import materialise

# The last names of parts of a weight, with what they are, and what would make it whole.
_PARTS = {
    "weight_orig": "a weight before it is pruned or normed, whose mask (weight_mask) or vectors (weight_u) the file lacks",
    "weight_v": "the direction of a weight, whose size (weight_g) the file lacks",
    "weight_g": "the size of a weight, whose direction (weight_v) the file lacks",
}
_WAY_OUT = "take the file that has both, or save the plain weights of the model"

# A weight that was scaled has its largest number near the largest of its dtype; a plain one hardly has half of that.
_FULL, _LOOKED_AT = 0.5, 4


def lone(view: View, wanted: Mapping[str, Any]) -> dict[str, str]:
    """Return the stems of weights of which a file has a part alone, each with what it is, for a model that has none such.

    >>> from fxmap.files.computed.kind import Settings
    >>> view = View({"fc.weight_orig": torch.ones(2, 2)}, Settings())
    >>> list(lone(view, {"fc.weight": torch.ones(2, 2)})), lone(view, {"fc.weight_orig": torch.ones(2, 2)})
    (['fc.weight'], {})
    """
    theirs = {key.rpartition(".")[2] for key in wanted}
    left = list(filterfalse(view.made.__contains__, view.keys()))
    result = {
        key.rpartition("_")[0]: f"{key} is {_PARTS[last]}: {_WAY_OUT}"
        for key in left
        if (last := key.rpartition(".")[2]) in _PARTS and last not in theirs and key.rpartition("_")[0] not in view
    }
    if not any(_is_fp8(value) for value in wanted.values()):
        result |= _without_scale(view, left)
    return result


def _without_scale(view: View, left: list[str]) -> dict[str, str]:
    bare = [key for key in left if _is_fp8(view.file.get(key)) and view.file[key].dim() > 1]
    scaled = next((part for weight in view.made.values() for part in weight.parts if _is_fp8(view.file.get(part))), None)
    if scaled is not None:
        why = f"has 8 bits in floating point (fp8) and no scale, while {scaled} has one"
    elif any(_is_full(view.file[key]) for key in bare[:_LOOKED_AT]):
        why = "has 8 bits in floating point (fp8) up to the largest of its dtype, so that it was scaled, and no scale"
    else:
        return {}
    return {key: f"{key} {why}: take the file with all scales, or save the weights in another dtype" for key in bare}


def _is_fp8(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.element_size() == 1


def _is_full(value: Tensor) -> bool:
    if value.is_meta or not value.numel():
        return False
    return float(materialise(value).float().abs().max()) >= _FULL * torch.finfo(value.dtype).max
