"""Weights that are quantized tensor subclasses, as torchao's `quantize_` puts them under the keys of the float model.

How such a weight was quantized can be read off it, and its class makes another one the same way. torchao is not imported:
whoever has such a model has imported it.
"""

import inspect
import sys
from typing import Any

from torch import Tensor

from fxmap.errors import QuantizationError
from fxmap.expressions.functions import dequantize, is_wrapped


def plain(value: Tensor) -> Tensor:
    """Return the float value of a tensor, wrapped or not."""
    return value.dequantize() if is_wrapped(value) else value


def fitted(value: Any, own: Any) -> Any:
    """Convert a value to the kind of the destination's own tensor: quantized like that one, if it is wrapped.

    A value of the same class and configuration is taken as it is: dequantizing and quantizing again would move the scale.

    Raises:
        QuantizationError: the class does not tell how it is quantized.
    """
    if not isinstance(value, Tensor):
        return value
    if not is_wrapped(own):
        return plain(value)
    if is_wrapped(value) and _configuration(value) == _configuration(own) and value.shape == own.shape:
        return value
    return quantize_as(own, dequantize(value).detach())


def quantize_as(own: Any, value: Tensor) -> Tensor:
    """Quantize a float tensor as another one is, by the `from_hp` of its class.

    Raises:
        QuantizationError: the class has none, or it needs an argument that a quantized tensor does not keep.
    """
    kind: Any = type(own)
    make = getattr(kind, "from_hp", None)
    if make is None:
        raise QuantizationError(f"a weight of {kind.__name__} does not tell how it was quantized: {_WAY_OUT}")
    known = _known(own)
    parameters = list(inspect.signature(make).parameters.values())[1:]
    missing = [p.name for p in parameters if p.default is p.empty and p.name not in known]
    if missing:
        raise QuantizationError(
            f"{kind.__name__} wants {', '.join(missing)}, which a quantized weight does not keep: {_WAY_OUT}"
        )
    try:
        made: Tensor = make(value.to(own.dtype), **{p.name: known[p.name] for p in parameters if p.name in known})
    except (RuntimeError, ValueError, AssertionError, TypeError, ImportError) as error:
        raise QuantizationError(f"{kind.__name__}: weights of shape {tuple(value.shape)} are refused: {error}") from error
    return made


_WAY_OUT = "load the float weights first, with fxmap.transfer into the float model, and quantize that"


def _known(own: Any) -> dict[str, Any]:
    """Return the arguments of `from_hp` that can be read off a quantized tensor, by name."""
    names = (*getattr(own, "tensor_attribute_names", ()), *getattr(own, "optional_tensor_attribute_names", ()))
    known = {name: getattr(own, name) for name in names if name != "dtype"}
    for name in ("act_quant_scale", "act_quant_zero_point", "act_pre_scale"):
        if getattr(own, name, None) is not None:
            known[name] = getattr(own, name)
    known["float8_dtype"] = own.qdata.dtype
    granularity = _granularity(own)
    if granularity is not None:
        known["granularity"] = granularity
    zero_point = getattr(own, "zero_point", None)
    if zero_point is not None and bool((zero_point != 0).any()):
        known["mapping_type"] = _torchao("MappingType").ASYMMETRIC
    return known


def _granularity(own: Any) -> Any:
    """Return torchao's granularity object for the blocks that share a scale; None where the class has no block size."""
    block = getattr(own, "block_size", None)
    if block is None:
        return None
    block, shape = list(block), list(own.shape)
    if block == shape:
        return _torchao("PerTensor")()
    if block == [1] * (len(shape) - 1) + shape[-1:]:
        return _torchao("PerRow")()
    return _torchao("PerBlock")(tuple(block)) if block[0] > 1 else _torchao("PerGroup")(block[-1])


def _torchao(name: str) -> Any:
    return getattr(sys.modules["torchao.quantization"], name)


def _configuration(own: Any) -> tuple[Any, ...]:
    """Return the class, dtype and quantization attributes, in which two tensors must agree for a plain copy."""
    names = (*getattr(own, "tensor_attribute_names", ()), *getattr(own, "optional_tensor_attribute_names", ()))
    return type(own), own.dtype, tuple(repr(getattr(own, name)) for name in names)
