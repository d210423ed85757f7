"""Weights of few bits with scales: fp8 and int8 with `weight_scale` or `weight_scale_inv`, and int8 with `SCB`."""

from collections.abc import Iterator
from math import ceil

import torch
from torch import Tensor

from fxmap.expressions.arithmetic import Scaled
from fxmap.expressions.stored import BlockScaled
from fxmap.files.computed.kind import CannotCompute, Kind, Shape, View, Weight, with_suffixes

# Rows and columns of a block of fp8 that has one scale, where nothing beside the file says otherwise.
_BLOCK = 128

# Tensors beside such a weight that say how activations are quantized: nothing of the float model is made of them.
_OF_ACTIVATIONS = ("input_scale", "input_zero_point", "output_scale", "output_zero_point", "scale_input", "activation_scale")


def _scaled(view: View, stem: str) -> Iterator[Weight]:
    if not _is_small(view.file.get(stem)):
        return
    value = view.tensor(stem)
    scale = next(f"{stem}{end}" for end in ("_scale_inv", "_scale") if f"{stem}{end}" in view)
    if value.dtype in (torch.uint8, torch.bool):
        raise CannotCompute(f"{stem} holds several numbers in a byte, in a format that is not read here")
    zero = f"{stem}_zero_point" if f"{stem}_zero_point" in view else None
    points = None if zero is None else view.read(zero)
    made = BlockScaled(view.read(stem), view.read(scale), _block(view, stem, scale), points)
    owner = stem.rpartition(".")[0]
    beside = [f"{owner}.{name}" if owner else name for name in _OF_ACTIVATIONS] + [f"{stem}_shape", f"{stem}_g_idx"]
    parts = [stem, scale, *([zero] if zero else []), *(key for key in beside if key in view)]
    yield Weight(stem, made, tuple(value.shape), tuple(parts))


def _block(view: View, stem: str, scale: str) -> tuple[int, ...]:
    """Return the rows and columns of the blocks that have one scale each; empty where scales broadcast as they are.

    Raises:
        CannotCompute: there are scales for neither.
    """
    shape, extents = view.shape(stem), view.shape(scale)
    if _broadcasts(extents, shape):
        return ()
    given = view.settings.packing.get("weight_block_size")
    blocks = [tuple(given)] if isinstance(given, list) and len(given) == 2 else []
    blocks.append((_BLOCK, _BLOCK))
    if len(extents) == len(shape) >= 2:
        even = [ceil(whole / count) for whole, count in zip(shape[-2:], extents[-2:], strict=True)]
        if all(whole == size * count for whole, size, count in zip(shape[-2:], even, extents[-2:], strict=True)):
            blocks.append(tuple(even))
        for rows, columns in blocks:
            if extents == (*shape[:-2], ceil(shape[-2] / rows), ceil(shape[-1] / columns)):
                return rows, columns
    raise CannotCompute(f"{scale} is {list(extents)}, which are no scales of {stem}, {list(shape)}")


def _broadcasts(extents: Shape, shape: Shape) -> bool:
    if extents in ((), (1,), shape[:1]) or set(extents) == {1}:
        return True
    return len(extents) == len(shape) and all(a in (1, b) for a, b in zip(extents, shape, strict=True))


def _by_rows(view: View, stem: str) -> Iterator[Weight]:
    weight, scale, layout = f"{stem}.weight", f"{stem}.SCB", f"{stem}.weight_format"
    shape = view.shape(weight)
    if view.tensor(weight).is_floating_point() or view.shape(scale) != shape[:1]:
        raise CannotCompute(f"{scale} is {list(view.shape(scale))}, which are no scales of {weight}, {list(shape)}")
    if layout in view and int(view.tensor(layout).max()):
        raise CannotCompute(f"{weight} is not in rows, but in a layout of one kind of GPU")
    made = Scaled(BlockScaled(view.read(weight), view.read(scale)), 1 / 127)
    yield Weight(weight, made, shape, (weight, scale, *([layout] if layout in view else [])))


_STEMS = with_suffixes(("_scale_inv", ""), ("_scale", ""))


def _is_small(value: object) -> bool:
    return isinstance(value, Tensor) and not value.is_quantized and value.element_size() == 1


SCALED = Kind(
    "numbers of few bits with scales",
    _STEMS,
    _scaled,
    stored_so=lambda wanted: any(_is_small(wanted[stem]) for stem in _STEMS(wanted)),
)
BY_ROWS = Kind("bitsandbytes in 8 bits", with_suffixes((".SCB", ".weight")), _by_rows)
