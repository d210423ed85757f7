"""The float counterparts of the modules of torch.ao: stubs, layers with int8 weights, layers of QAT, observers."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fxmap.errors import QuantizationError
from fxmap.forms.conversion import Conversion, Converted, Converter, Part, Seen
from fxmap.forms.graph_nodes import is_observer
from fxmap.forms.sites import Site
from fxmap.forms.store import Store
from fxmap.model.replica import named_tensors, replicate


def conversions() -> tuple[Conversion, ...]:
    """Return the rows for observers, for the stubs and functions of a model, and for its layers."""
    import torch.ao.nn.intrinsic.qat as nniqat
    import torch.ao.nn.qat as nnqat
    import torch.ao.nn.quantized as nnq
    import torch.ao.quantization as tq

    fused = (nniqat.ConvBn1d, nniqat.ConvBn2d, nniqat.ConvBn3d, nniqat.LinearBn1d)
    return (
        Conversion(is_observer, _observer),
        Conversion((nnq.Quantize,), _becomes(tq.QuantStub)),
        Conversion((nnq.DeQuantize,), _becomes(tq.DeQuantStub)),
        Conversion((nnq.QFunctional,), _becomes(nnq.FloatFunctional)),
        Conversion((nnqat.Linear, nnqat.Conv1d, nnqat.Conv2d, nnqat.Conv3d, *fused), _qat_layer),
    )


def layer_conversions() -> tuple[Conversion, ...]:
    """Return the rows for layers with int8 weights, special classes before general ones."""
    import torch.ao.nn.quantized as nnq

    return (
        Conversion((nnq.Linear,), _linear),
        Conversion(_is_convolution, _convolution),
        # Float modules, although they live beside the quantized ones.
        Conversion((nnq.Dropout, nnq.FloatFunctional, nnq.FXFloatFunctional), lambda part: None),
        Conversion((nnq.MultiheadAttention,), _attention),
        Conversion(_is_quantized_module, _subclass),
    )


def int8(
    part: Part,
    twin: nn.Module,
    stores: Mapping[str, Store] | None = None,
    *,
    weight_only: bool = False,
    inner: Mapping[str, nn.Module] | None = None,
    seen: Seen = Seen.NOTHING,
) -> Converted:
    """Return the conversion of an int8 module and its `inner` ones; their outputs are all quantized, or none is."""
    modules = {part.path: part.module} | {part.key(name): module for name, module in (inner or {}).items()}
    seen |= Seen.INT8 if weight_only else Seen.INT8 | Seen.RANGE
    sites = () if weight_only else tuple(_site(path, module) for path, module in modules.items())
    return Converted(twin, stores or {}, tuple(modules), sites, seen)


def _site(path: str, module: Any) -> Site:
    import torch.ao.nn.quantized as nnq

    scale, zero_point = (Part(path, module).key(name) for name in ("scale", "zero_point"))
    # Functions return what they computed through a module of their own.
    returned = f"{path}.activation_post_process" if isinstance(module, nnq.QFunctional) else path
    return Site.of(returned, scale, zero_point, module.dtype if isinstance(module, nnq.Quantize) else torch.quint8)


def require_int8(part: Part, dtype: torch.dtype) -> None:
    """Refuse a dynamic layer with weights of another dtype.

    Raises:
        QuantizationError: it has.
    """
    if dtype is not torch.qint8:
        raise QuantizationError(
            f"{part.path}: a dynamic layer with {dtype} weights is not supported; quantize it with dtype=torch.qint8"
        )


def _observer(part: Part) -> Converted:
    faked = isinstance(getattr(part.module, "fake_quant_enabled", None), Tensor)
    return Converted(nn.Identity(), seen=Seen.OBSERVER | Seen.FAKE_QUANT if faked else Seen.OBSERVER)


def _becomes(kind: type[nn.Module]) -> Converter:
    return lambda part: int8(part, kind())


def _linear(part: Part) -> Converted:
    import torch.ao.nn.intrinsic as nni
    import torch.ao.nn.intrinsic.quantized as nniq
    import torch.ao.nn.intrinsic.quantized.dynamic as nniqd
    import torch.ao.nn.quantized.dynamic as nnqd

    weight, bias = part.module._packed_params._weight_bias()
    require_int8(part, weight.dtype)
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    _assign(linear, weight, bias)
    relu = isinstance(part.module, nniq.LinearReLU | nniqd.LinearReLU)
    inner = part.key("0.") if relu else part.key("")
    held = Store(f"{inner}weight", f"{inner}bias" if bias is not None else None, part.scheme(weight), packed="tuple")
    twin = nni.LinearReLU(linear, nn.ReLU()) if relu else linear
    only = isinstance(part.module, nnqd.Linear)
    return int8(part, twin, {part.key("_packed_params._packed_params"): held}, weight_only=only)


def _is_convolution(module: nn.Module) -> bool:
    return hasattr(type(module), "_weight_bias") and hasattr(module, "kernel_size")


def _convolution(part: Part) -> Converted:
    import torch.ao.nn.intrinsic as nni

    path, module = part.path, part.module
    weight, bias = module._weight_bias()
    dims = len(module.kernel_size)
    name = f"Conv{'Transpose' if module.transposed else ''}{dims}d"
    options: dict[str, Any] = {"output_padding": module.output_padding} if module.transposed else {}
    convolution = getattr(nn, name)(
        module.in_channels,
        module.out_channels,
        module.kernel_size,
        module.stride,
        module.padding,
        dilation=module.dilation,
        groups=module.groups,
        bias=bias is not None,
        padding_mode=module.padding_mode,
        device="meta",
        **options,
    )
    _assign(convolution, weight, bias)
    kind = type(module).__name__
    if kind.startswith("ConvAdd"):
        raise QuantizationError(f"{path}: {kind} fuses an addition into a convolution, which has no eager float form")
    relu = kind.startswith("ConvReLU")
    inner = f"{path}.0" if relu else path
    stores = {f"{path}.weight": Store(f"{inner}.weight", scheme=part.scheme(weight))}
    if bias is not None:
        stores[f"{path}.bias"] = Store(f"{inner}.bias")
    twin = getattr(nni, f"ConvReLU{dims}d")(convolution, nn.ReLU()) if relu else convolution
    return int8(part, twin, stores)


def _attention(part: Part) -> None:
    """Keep converted attention as it is: its code runs with float linear layers too."""
    if part.module.bias_k is not None:
        raise QuantizationError(f"{part.path}: converted attention with add_bias_kv has biases outside its state dict")


def _is_quantized_module(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.ao.nn.quantized.modules")


def _subclass(part: Part) -> Converted:
    """Convert any other quantized module: a subclass of its float class, with a scale and a zero point added."""
    module = part.module
    kinds = [kind for kind in type(module).__mro__ if kind.__module__.startswith("torch.nn.modules.")]
    if not kinds or kinds[0] is nn.Module:
        raise QuantizationError(f"{part.path}: {type(module).__qualname__} has no float twin in fxmap")
    kind = kinds[0]
    if kind is nn.modules.batchnorm._BatchNorm:
        kind = getattr(nn, type(module).__name__)
    twin = _as(kind, module)
    for name in ("scale", "zero_point"):
        twin._buffers.pop(name, None)
    return int8(part, twin)


def _qat_layer(part: Part) -> Converted:
    """Convert a layer of QAT: a subclass of its float class; its batch norm is a child, its relu part of its type."""
    import torch.ao.nn.intrinsic as nni

    path, module, seen = part.path, part.module, Seen.QAT_LAYER | Seen.OBSERVER
    kind = type(module).__name__
    parts: list[nn.Module] = [float_base(module)]
    if "Bn" in kind:
        parts.append(replicate(module.bn))
    if "ReLU" in kind:
        parts.append(nn.ReLU())
    names = [f"{path}.{name}" for name in ("weight", "bias") if getattr(module, name) is not None]
    if len(parts) == 1:
        return Converted(parts[0], {name: Store(name) for name in names}, seen=seen)
    stores = {name: Store(f"{path}.0.{name.rpartition('.')[2]}") for name in names}
    for name, _, _ in named_tensors(parts[1]):
        stores[f"{path}.bn.{name}"] = Store(f"{path}.1.{name}")
    return Converted(getattr(nni, kind)(*parts), stores, seen=seen)


def float_base(module: nn.Module) -> nn.Module:
    """Return a copy of a module as its float base class: the same tensors, no children, no hooks."""
    kind = next(kind for kind in type(module).__mro__ if kind.__module__.startswith("torch.nn.modules."))
    if kind is nn.modules.conv._ConvNd:
        kind = getattr(nn, f"Conv{len(module.kernel_size)}d")  # type: ignore[arg-type]
    twin = _as(kind, module)
    twin._modules = {}
    for hooks in (twin._forward_hooks, twin._forward_pre_hooks):
        hooks.clear()
    return twin


def _as(kind: type[nn.Module], module: nn.Module) -> nn.Module:
    """Return a copy of a module as an instance of another class, with the same tensors."""
    twin: nn.Module = object.__new__(kind)
    twin.__dict__ = {name: value.copy() if isinstance(value, dict | set) else value for name, value in vars(module).items()}
    return twin


def _assign(layer: nn.Module, weight: Tensor, bias: Tensor | None) -> None:
    layer.weight = nn.Parameter(weight.detach().dequantize(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach(), requires_grad=False)


def tidy(twin: nn.Module) -> set[str]:
    """Remove the observers inside float modules, and turn quantized attention into its float counterpart.

    Returns the joined projections of such attention: leftovers of its base class, which nothing reads.
    """
    import torch.ao.nn.quantizable as nnqa

    for module in twin.modules():
        _drop_observer(module)
        _unquantize_attention(module)
    attention = [path for path, module in twin.named_modules() if isinstance(module, nnqa.MultiheadAttention)]
    return {f"{path}.{name}" for path in attention for name in ("in_proj_weight", "in_proj_bias")}


def _drop_observer(module: nn.Module) -> None:
    # FloatFunctional calls its (identity) post-process by itself and keeps it.
    from torch.ao.nn.quantized import FloatFunctional

    if "activation_post_process" not in module._modules or isinstance(module, FloatFunctional):
        return
    del module._modules["activation_post_process"]
    for hooks in (module._forward_hooks, module._forward_pre_hooks):
        for handle, hook in list(hooks.items()):
            if getattr(hook, "__module__", "").startswith("torch.ao."):
                del hooks[handle]


def _unquantize_attention(module: nn.Module) -> None:
    """Set the class of quantized attention to the quantizable one: torch's prepare and convert dispatch on the class."""
    import torch.ao.nn.quantizable as nnqa
    import torch.ao.nn.quantized as nnq

    if type(module) is nnq.MultiheadAttention:
        module.__class__ = nnqa.MultiheadAttention
        # torch's convert removes these two, and no code reads them.
        module.register_parameter("in_proj_weight", None)
        module.register_parameter("in_proj_bias", None)
