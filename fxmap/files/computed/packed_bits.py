"""Weights whose numbers of few bits are packed in words: GPTQ, AWQ, and bitsandbytes in 4 bits."""

import json
from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

import torch

from fxmap.expressions.arithmetic import Shifted
from fxmap.expressions.base import Expression
from fxmap.expressions.decoding import unpacked_bits
from fxmap.expressions.stored import Awq, Gptq, LookedUp
from fxmap.files.computed.kind import CannotCompute, Kind, View, Weight, with_suffixes

# What was taken off the zeros before they were stored, by the version of the format.
_SHIFTS = {"gptq": 1, "gptq_v2": 0}


def _words(view: View, stem: str) -> Iterator[Weight]:
    words, zeros, scales, groups = (f"{stem}.{name}" for name in ("qweight", "qzeros", "scales", "g_idx"))
    if {view.tensor(words).dtype, view.tensor(zeros).dtype} != {torch.int32}:
        raise CannotCompute(f"{words} and {zeros} are not in words of 32 bits")
    (rows, columns), (count, outputs) = _matrix(view, words), _matrix(view, scales)
    bits, rest = divmod(32 * _matrix(view, zeros)[1], outputs)
    if rest or bits not in (2, 3, 4, 8) or _matrix(view, zeros)[0] != count:
        raise CannotCompute(f"{zeros} is {list(view.shape(zeros))}, where {scales} is {list(view.shape(scales))}")
    parts = tuple(key for key in (words, zeros, scales, groups) if key in view)
    read = [view.read(key) for key in (words, zeros, scales)]
    made: Expression
    if columns == outputs:
        inputs = rows * 32 // bits
        made = Gptq(read[0], read[1], read[2], bits, _shift(view), _groups(view, groups, inputs, count))
    elif columns * 8 == outputs and bits == 4 and rows % count == 0:
        inputs = rows
        made = Awq(read[0], read[1], read[2], bits)
    else:
        raise CannotCompute(f"{words} is {[rows, columns]}, which is neither the layout of GPTQ nor the usual one of AWQ")
    yield Weight(f"{stem}.weight", made, (outputs, inputs), parts)


def _matrix(view: View, key: str) -> tuple[int, int]:
    shape = view.shape(key)
    if len(shape) != 2:
        raise CannotCompute(f"{key} is {list(shape)}, where a matrix is expected")
    return shape[0], shape[1]


def _groups(view: View, key: str, inputs: int, count: int) -> Expression | None:
    if key not in view or not view.tensor(key).numel():
        return None
    given = view.tensor(key)
    if view.shape(key) != (inputs,) or not 0 <= int(given.min()) <= int(given.max()) < count:
        raise CannotCompute(f"{key} is {list(view.shape(key))}, for {inputs} inputs in {count} groups")
    return view.read(key)


def _shift(view: View) -> int:
    """Return what was taken off the zeros of GPTQ when they were stored: 1 in its first version, nothing in its second.

    Where no file beside the weights says which it is, the weights do: their mean is far below one step, and would be about
    one step in the other version.

    Raises:
        CannotCompute: the mean fits neither.
    """
    said = _SHIFTS.get(str(view.settings.packing.get("checkpoint_format", "")))
    if said is not None:
        return said
    mean, uncertain = _mean_step(view.file, WORDS.stems(view.file)[:8])
    for shift in (0, 1):
        if uncertain < 0.5 and abs(mean - shift) < max(uncertain, 0.25):
            return shift
    raise CannotCompute(
        "which version of GPTQ it is, neither a config beside the file nor the mean of the weights tells: give the folder, "
        "whose config.json or quantize_config.json says it (checkpoint_format)"
    )


def _mean_step(file: Mapping[str, Any], stems: list[str]) -> tuple[float, float]:
    """Return the mean of some layers' numbers above their zeros, in steps, and how far chance may move it."""
    sums, variances, count = 0.0, 0.0, 0
    for stem in stems:
        words, zeros, scales = (file[f"{stem}.{name}"] for name in ("qweight", "qzeros", "scales"))
        bits = 32 * zeros.shape[1] // scales.shape[1]
        numbers = unpacked_bits(words, bits).float()
        sums += float(numbers.sum() - unpacked_bits(zeros.t(), bits).float().mean() * numbers.numel())
        variances += float(numbers.var(correction=0)) * numbers.numel()
        count += numbers.numel()
    return sums / count, 3.5 * variances**0.5 / count


def _codes(view: View, stem: str) -> Iterator[Weight]:
    state = next((key for key in view.file if key.startswith(f"{stem}.quant_state.bitsandbytes__")), "")
    about = _described(view, state)
    shape, block = tuple(int(extent) for extent in about["shape"]), int(about["blocksize"])
    absmax, table = f"{stem}.absmax", f"{stem}.quant_map"
    nested = [f"{stem}.nested_absmax", f"{stem}.nested_quant_map"]
    scale = view.read(absmax)
    if nested[0] in view:
        count = prod(view.shape(absmax))
        inner = LookedUp(scale, view.read(nested[1]), view.read(nested[0]), 8, int(about["nested_blocksize"]), (count,))
        scale = Shifted(inner, float(about["nested_offset"]))
    if prod(view.shape(table)) != 16 or (nested[1] in view and prod(view.shape(nested[1])) != 256):
        raise CannotCompute(f"{table} is {list(view.shape(table))}, where a table of 16 numbers is expected")
    if prod(view.shape(stem)) * 2 < prod(shape) or prod(view.shape(absmax)) * block < prod(shape):
        raise CannotCompute(f"{stem} is {list(view.shape(stem))}, and {state} says that it holds {list(shape)}")
    made = LookedUp(view.read(stem), view.read(table), scale, 4, block, shape)
    yield Weight(stem, made, shape, tuple(key for key in (stem, absmax, table, *nested, state) if key in view))


def _described(view: View, key: str) -> dict[str, Any]:
    """Return the JSON that a tensor of bytes holds: shape and sizes of blocks."""
    try:
        about = json.loads(bytes(view.tensor(key).to(torch.uint8).tolist()))
        if {"shape", "blocksize"} <= about.keys():
            return dict(about)
    except (ValueError, TypeError, AttributeError, RecursionError):
        pass
    raise CannotCompute(f"{key or 'its quant_state'} does not say the shape of the weight and the size of its blocks")


WORDS = Kind("GPTQ or AWQ", with_suffixes((".qweight", ".qzeros", ".scales")), _words)
CODES = Kind("bitsandbytes in 4 bits", with_suffixes((".absmax", ".quant_map", "")), _codes)
