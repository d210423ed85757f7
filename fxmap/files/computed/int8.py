"""State dicts of torch's int8 models: quantized weights, entries that pack weight and bias, ranges of activations.

A float model takes the dequantized weights. An int8 model takes weights and ranges as they are, whatever its layers are
called, so that a packed entry is seen as the weight and the bias that it holds.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from fxmap.expressions.base import Expression, Source
from fxmap.expressions.packing import is_object, unpack
from fxmap.expressions.quantized import Dequantized, Unpacked
from fxmap.files.computed.kind import View, Weight

PACKED = "_packed_params._packed_params"


def is_int8(state: Mapping[str, Any]) -> bool:
    """Whether a state dict is one of an int8 model of torch: it holds quantized weights, packed or not."""
    held = any(is_object(value) or (isinstance(value, Tensor) and value.is_quantized) for value in state.values())
    return held or bool(packed_layers(state))


def packed_layers(state: Mapping[str, Any]) -> list[str]:
    """List the paths of layers whose weight and bias are packed in one entry."""
    found = (key.removesuffix(PACKED).removesuffix(".") for key, value in state.items() if _is_pair(key, value))
    return list(dict.fromkeys(found))


def _is_pair(key: str, value: object) -> bool:
    is_packed = key == PACKED or key.endswith(f".{PACKED}")
    return is_packed and isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], Tensor)


def under(path: str, name: str) -> str:
    """Return the key of a tensor in a layer."""
    return f"{path}.{name}" if path else name


def weights_of_int8(view: View, *, as_float: bool) -> Iterator[Weight]:
    """Yield the weights of an int8 state dict: those of packed entries, and with `as_float` the dequantized others."""
    for path in packed_layers(view.file):
        key, kind = under(path, PACKED), under(path, "_packed_params.dtype")
        weight, bias = view.file[key]
        made: Expression = Unpacked(Source(key), 0)
        shape = tuple(weight.shape)
        parts = (key, kind) if kind in view.file else (key,)
        yield Weight(under(path, "weight"), Dequantized(made) if as_float else made, shape, parts)
        if bias is not None:
            yield Weight(under(path, "bias"), Unpacked(Source(key), 1), tuple(bias.shape), (key,))
    for key, value in view.file.items() if not as_float else ():
        if is_object(value):
            for index, tensor in enumerate(unpack(value)):
                yield Weight(f"{key}.{index}", Unpacked(Source(key), index), tuple(tensor.shape), (key,))
    for key, value in view.file.items() if as_float else ():
        if isinstance(value, Tensor) and value.is_quantized:
            yield Weight(key, Dequantized(Source(key)), tuple(value.shape), (key,))


def ranges(state: Mapping[str, Any]) -> list[str]:
    """List the keys of ranges of activations: a scale and a zero point, one number each."""
    pairs = ((key, f"{key.removesuffix('scale')}zero_point") for key in state if key.rpartition(".")[2] == "scale")
    return [key for pair in pairs if all(_is_number(state.get(key)) for key in pair) for key in pair]


def _is_number(value: object) -> bool:
    return isinstance(value, Tensor) and value.numel() == 1
