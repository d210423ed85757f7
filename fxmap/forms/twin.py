"""The float twin: what a model of any quantized form computes, as an ordinary float model.

A converted, prepared or QAT-prepared model is a float network with additions: integers for weights, observers, fake
quantizers, ranges. The twin leaves the additions out. It has the same structure, runs in any dtype, and can be traced and
aligned like any other model, so that no later stage knows about quantization. What the twin leaves out is kept beside
it: where every twin tensor is stored in the model's own state dict, and which keys of that have no float counterpart.

>>> from torch import nn
>>> twin = float_twin(nn.Sequential(nn.Linear(2, 3)))
>>> twin.stage, twin.stores["0.weight"].weight, twin.kept
(<Stage.FLOAT: 'float'>, '0.weight', {})
"""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxmap.errors import QuantizationError
from fxmap.expressions.base import Expression, Source
from fxmap.expressions.scheme import Scheme, is_narrow
from fxmap.forms.domain import floats_inside_graph
from fxmap.forms.exported import GraphWeight, float_copy
from fxmap.forms.graph import Rewritten, is_observer, rewrite, tensor_at
from fxmap.forms.recurrent import Replacement, is_weight_only, replacement, require_int8
from fxmap.forms.sites import Site
from fxmap.forms.stage import Stage
from fxmap.forms.store import COPY, Store
from fxmap.forms.torchao import is_fake_quantized, refuse_foreign, unwrap_tensors
from fxmap.model.replica import named_tensors, replicate


@dataclass(frozen=True, slots=True)
class Twin:
    """A float twin and how its tensors are stored in the model's own state dict.

    `module` is the twin; `stores` says for every key with a float source what it holds; `kept` says for every other key
    what it is ("activation range", "observer", "constant"); `ranges` are the kept keys that must come from calibration
    data; `converted` are the paths of the modules that are int8; `inside` the float modules that a graph calls on int8;
    `sites` the places where activations are quantized, if the twin was asked to have them marked.
    """

    module: nn.Module
    stage: Stage
    stores: dict[str, Store]
    kept: dict[str, str] = field(default_factory=dict)
    ranges: tuple[str, ...] = ()
    converted: tuple[str, ...] = ()
    inside: tuple[str, ...] = ()
    sites: tuple[Site, ...] = ()

    def decoded(self) -> dict[str, Expression]:
        """Return how every tensor of the twin is read from the model's state dict."""
        return {name: part for key, store in self.stores.items() for name, part in store.decode(key).items()}

    def held(self) -> dict[Expression, Expression]:
        """Return for the weights that the model holds quantized what makes each in float, and what makes it as it is."""
        return {made: part for key, store in self.stores.items() for made, part in store.held_by(key).items()}


def float_twin(model: nn.Module, *, marked: bool = False) -> Twin:
    """Build the float twin of a model; the model is not changed, and shares its float tensors with the twin.

    A `marked` twin says where activations are quantized: that of a graph has an identity for every node that does.

    Raises:
        QuantizationError: the model has quantized modules of a kind that has no float counterpart here.
    """
    refuse_foreign(model)
    # A model can only hold modules of these packages if something has imported them.
    if sys.modules.keys().isdisjoint(_PACKAGES):
        found = Twin(replicate(model), Stage.FLOAT, {key: Store(key) for key in model.state_dict()})
    else:
        found = _module_twin(model, marked=marked)
    wrapped = unwrap_tensors(found.module)
    if not wrapped:
        return found
    stores = {key: replace(s, wrapped=True) if s.weight in wrapped else s for key, s in found.stores.items()}
    return replace(found, stores=stores, stage=Stage.WRAPPED if found.stage is Stage.FLOAT else found.stage)


def _module_twin(model: nn.Module, *, marked: bool) -> Twin:
    """Build the twin of a model whose modules, or whose graph, tell its form."""
    state = model.state_dict()
    builder = _Builder(model, state)
    twin = builder.rewritten(replicate(model, builder.replace), marked=marked)
    for module in twin.modules():
        _drop_observer(module)
        _unquantize_attention(module)
    unread = _never_read(twin)
    own = {path for path, _, _ in named_tensors(twin)} - unread
    stores = {key: builder.stores.get(key, Store(key)) for key in state if key in builder.stores or key in own}
    kept = {key: builder.describe(key) for key in state if key not in stores}
    kept |= dict.fromkeys(kept.keys() & unread, "never read: this attention has a linear layer for each projection")
    ranges = tuple(key for key in kept if kept[key] == ACTIVATION_RANGE) if builder.static else ()
    ranges += tuple(builder.literals)
    converted = tuple(builder.converted)
    sites = (*builder.sites, *_module_sites(builder.converted, kept)) if marked else ()
    return Twin(twin, builder.stage(model), stores, kept, ranges, converted, builder.inside(model), sites)


def _module_sites(converted: Mapping[str, nn.Module], kept: Mapping[str, str]) -> Iterator[Site]:
    """Yield where modules quantize what they return: those that have a scale and a zero point in the state dict."""
    import torch.ao.nn.quantized as nnq

    for path, module in converted.items():
        scale, zero_point = (f"{path}.{name}" if path else name for name in ("scale", "zero_point"))
        if not kept.get(scale) == kept.get(zero_point) == ACTIVATION_RANGE:
            continue
        # Functions return what they computed through a module of their own.
        returned = f"{path}.activation_post_process" if isinstance(module, nnq.QFunctional) else path
        dtype = module.dtype if isinstance(module, nnq.Quantize) else torch.quint8
        yield Site.of(returned, scale, zero_point, dtype)


_PACKAGES = ("torch.ao.quantization", "torchao.quantization.pt2e")


ACTIVATION_RANGE = "activation range"


# Behind the name of a node, where keys of the state dict are named.
LITERAL = " (a literal of the graph)"


class _Builder:
    """Replaces quantized modules one by one while the replica is made, and notes what it replaced."""

    def __init__(self, model: nn.Module, state: Mapping[str, Any]) -> None:
        self.stores: dict[str, Store] = {}
        self.converted: dict[str, nn.Module] = {}
        self.static = self.qat = self.observed = self.reference = self.exported = self.faked = self.wrapped_qat = False
        self.narrow = is_narrow(_quantized_weights(model))
        # Keys that only quantizing nodes of a graph read.
        self.graph_ranges: set[str] = set()
        self.state = state
        self.literals: list[str] = []
        self.sites: list[Site] = []

    def rewritten(self, twin: nn.Module, *, marked: bool) -> nn.Module:
        """Give the graph modules of a twin their float graphs."""
        for path, module in list(twin.named_modules()):
            if not isinstance(module, fx.GraphModule):
                continue
            found = rewrite(module, path, marked=marked, stays=marked and bool(self.converted) and not self.reference)
            prefix = f"{path}." if path else ""
            self._note(found, prefix)
            if path:
                owner, _, name = path.rpartition(".")
                twin.get_submodule(owner)._modules[name] = found.module
            else:
                twin = found.module
        return twin

    def _note(self, found: Rewritten, prefix: str) -> None:
        """Note how the tensors of a graph are kept."""
        self.literals += [f"{prefix}{name}{LITERAL}" for name in found.literals]
        self.sites += [site.below(prefix) for site in found.sites]
        self.graph_ranges |= {prefix + target for target in found.ranges}
        self.static |= bool(self.graph_ranges or self.literals)
        self.exported |= found.exported
        for weight in found.weights:
            self._keep_in_parts(found, weight, prefix)

    def _keep_in_parts(self, found: Rewritten, weight: GraphWeight, prefix: str) -> None:
        if prefix:
            raise QuantizationError(f"{prefix}{weight.target}: a converted graph inside another model is not supported")
        zero_point = self.state.get(weight.zero_point) if isinstance(weight.zero_point, str) else None
        scheme = weight.scheme(zero_point)
        if not self.state[weight.target].is_floating_point():
            self.stores[weight.target] = Store(weight.target, scheme=scheme, part="integers", beside=weight.parts())
        for key, part in ((weight.scale, "scales"), (weight.zero_point, "zero_points")):
            if isinstance(key, str):
                self.stores[key] = Store(weight.target, scheme=scheme, part=part)
        read = {str(node.target) for node in found.module.graph.nodes if node.op == "get_attr"}
        dead = {key: value for key, value in self.state.items() if key not in read and key not in self.stores}
        copy = float_copy(weight, tensor_at(found.module, weight.target), dead)
        if copy is not None:
            self.stores[copy] = Store(weight.target, part=COPY)

    def inside(self, model: nn.Module) -> tuple[str, ...]:
        """Return the float modules that a converted graph calls on int8 activations, which can't run."""
        if not isinstance(model, fx.GraphModule) or self.reference:
            return ()
        converted = {path for path, module in self.converted.items() if not is_weight_only(module)}
        floats = {path for path, module in model.named_modules() if any(True for _ in module.parameters())} - converted
        return tuple(floats_inside_graph(model.graph, converted, floats))

    def describe(self, key: str) -> str:
        """Say what a key without a float counterpart is."""
        owner, _, attribute = key.rpartition(".")
        if key in self.graph_ranges:
            return ACTIVATION_RANGE
        if attribute in ("scale", "zero_point") and owner in self.converted and not is_weight_only(self.converted[owner]):
            return ACTIVATION_RANGE
        return "constant of a converted module" if owner.removesuffix("._packed_params") in self.converted else "observer"

    def replace(self, path: str, module: nn.Module) -> nn.Module | None:
        import torch.ao.nn.quantized as nnq
        import torch.ao.quantization as tq

        if is_observer(module):
            self.observed = True
            self.faked |= isinstance(getattr(module, "fake_quant_enabled", None), Tensor)
            return nn.Identity()
        for kind, twin in (
            (nnq.Quantize, tq.QuantStub),
            (nnq.DeQuantize, tq.DeQuantStub),
            (nnq.QFunctional, nnq.FloatFunctional),
        ):
            if isinstance(module, kind):
                return self._convert(path, module, twin())
        if is_fake_quantized(module):
            self.wrapped_qat = True
            return _base(module)
        if isinstance(module, _qat_kinds()):
            self.qat = self.observed = True
            return self._unprepare(path, module)
        if found := replacement(path, module, narrow=self.narrow):
            return self._replaced(path, module, found)
        return self._float_layer(path, module)

    def _float_layer(self, path: str, module: nn.Module) -> nn.Module | None:
        """Return the float counterpart of a layer with int8 weights; None for any other module."""
        import torch.ao.nn.quantized as nnq

        if isinstance(module, nnq.Linear):
            return self._convert_linear(path, module)
        if hasattr(module, "_weight_bias") and hasattr(module, "kernel_size"):
            return self._convert_convolution(path, module)
        if type(module).__module__.startswith("torch.ao.nn.quantized.reference."):
            return self._convert_reference(path, module)
        if isinstance(module, nnq.Dropout | nnq.FloatFunctional | nnq.FXFloatFunctional):
            return None  # float modules, although they live beside the quantized ones
        if isinstance(module, nnq.MultiheadAttention):
            if module.bias_k is not None:
                raise QuantizationError(f"{path}: converted attention with add_bias_kv has biases outside its state dict")
            return None  # a container of linear layers, with code that float ones run as well
        if type(module).__module__.startswith("torch.ao.nn.quantized.modules"):
            return self._convert_subclass(path, module)
        return None

    def stage(self, model: nn.Module) -> Stage:
        """Name the stage by what was found."""
        import torch.ao.nn.intrinsic as nni
        import torch.ao.quantization as tq

        if self.exported and (self.observed or self.static):
            return Stage.PT2E_CONVERTED if self.static else Stage.PT2E_QAT if self.faked else Stage.PT2E_PREPARED
        if self.reference:
            return Stage.REFERENCE
        if self.wrapped_qat:
            return Stage.WRAPPED_QAT
        if self.converted:
            return Stage.CONVERTED if self.static else Stage.DYNAMIC
        if self.observed:
            return Stage.QAT if self.qat else Stage.PREPARED
        modules = list(model.modules())
        if any(isinstance(module, nni.ConvBn1d | nni.ConvBnReLU1d | nni.ConvBn2d | nni.ConvBnReLU2d) for module in modules):
            return Stage.FUSED_QAT
        stubs = any(isinstance(module, tq.QuantStub) for module in modules)
        fused = any(isinstance(module, nni._FusedModule) for module in modules)
        if fused or (stubs and not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in modules)):
            return Stage.FUSED
        return Stage.QUANTIZABLE if stubs else Stage.FLOAT

    def _convert(self, path: str, module: nn.Module, twin: nn.Module) -> nn.Module:
        self.converted[path] = module
        self.static |= not is_weight_only(module)
        return twin

    def _replaced(self, path: str, module: nn.Module, found: Replacement) -> nn.Module:
        self.stores |= found.stores
        for name, part in found.converted.items():
            self._convert(name, part, found.module)
        self.observed |= any(map(is_observer, module.modules()))
        return found.module

    def _convert_linear(self, path: str, module: Any) -> nn.Module:
        import torch.ao.nn.intrinsic as nni
        import torch.ao.nn.intrinsic.quantized as nniq
        import torch.ao.nn.intrinsic.quantized.dynamic as nniqd

        weight, bias = module._packed_params._weight_bias()
        require_int8(path, weight.dtype)
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
        _assign(linear, weight, bias)
        relu = isinstance(module, nniq.LinearReLU | nniqd.LinearReLU)
        inner = f"{path}.0." if relu else f"{path}." if path else ""
        self.stores[f"{path}._packed_params._packed_params" if path else "_packed_params._packed_params"] = Store(
            f"{inner}weight", f"{inner}bias" if bias is not None else None, self._scheme(weight), packed="tuple"
        )
        return self._convert(path, module, nni.LinearReLU(linear, nn.ReLU()) if relu else linear)

    def _convert_convolution(self, path: str, module: Any) -> nn.Module:
        import torch.ao.nn.intrinsic as nni

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
        self.stores[f"{path}.weight"] = Store(f"{inner}.weight", scheme=self._scheme(weight))
        if bias is not None:
            self.stores[f"{path}.bias"] = Store(f"{inner}.bias")
        twin = getattr(nni, f"ConvReLU{dims}d")(convolution, nn.ReLU()) if relu else convolution
        return self._convert(path, module, twin)

    def _convert_reference(self, path: str, module: Any) -> nn.Module:
        """Take a reference module, which keeps a float weight beside how it is quantized, for its float class."""
        if not hasattr(module, "weight_qscheme"):
            raise QuantizationError(f"{path}: {type(module).__qualname__} has no float twin in fxmap")
        self.reference = True
        twin = _base(module)
        quantized = module.get_quantized_weight()
        scheme = self._scheme(quantized) if quantized.is_quantized else None
        weight = f"{path}.weight" if path else "weight"
        if scheme is not None:
            beside = Source(f"{weight}_scale"), Source(f"{weight}_zero_point")
            self.stores[weight] = Store(weight, beside=beside, rounds=scheme)
        for name, part in (("weight_scale", "scales"), ("weight_zero_point", "zero_points"), ("weight_axis", "")):
            twin._buffers.pop(name, None)
            if scheme is not None and part:
                self.stores[weight.removesuffix("weight") + name] = Store(weight, scheme=scheme, part=part)
        return self._convert(path, module, twin)

    def _convert_subclass(self, path: str, module: nn.Module) -> nn.Module:
        # The other quantized modules are subclasses of their float class, with a scale and a zero point added.
        kinds = [kind for kind in type(module).__mro__ if kind.__module__.startswith("torch.nn.modules.")]
        if not kinds or kinds[0] is nn.Module:
            raise QuantizationError(f"{path}: {type(module).__qualname__} has no float twin in fxmap")
        kind = kinds[0]
        if kind is nn.modules.batchnorm._BatchNorm:
            kind = getattr(nn, type(module).__name__)
        twin: nn.Module = object.__new__(kind)
        twin.__dict__ = {
            name: value.copy() if isinstance(value, dict | set) else value for name, value in vars(module).items()
        }
        for name in ("scale", "zero_point"):
            twin._buffers.pop(name, None)
        return self._convert(path, module, twin)

    def _unprepare(self, path: str, module: Any) -> nn.Module:
        import torch.ao.nn.intrinsic as nni

        # A QAT module subclasses its float class; its batch norm is a child, its relu a part of its type.
        kind = type(module).__name__
        parts: list[nn.Module] = [_base(module)]
        if "Bn" in kind:
            parts.append(replicate(module.bn))
        if "ReLU" in kind:
            parts.append(nn.ReLU())
        names = [f"{path}.{name}" for name in ("weight", "bias") if getattr(module, name) is not None]
        if len(parts) == 1:
            self.stores.update({name: Store(name) for name in names})
            return parts[0]
        for name in names:
            self.stores[name] = Store(f"{path}.0.{name.rpartition('.')[2]}")
        for name, _, _ in named_tensors(parts[1]):
            self.stores[f"{path}.bn.{name}"] = Store(f"{path}.1.{name}")
        twin: nn.Module = getattr(nni, kind)(*parts)
        return twin

    def _scheme(self, weight: Tensor) -> Scheme:
        return Scheme.of(weight, narrow=self.narrow)


def _qat_kinds() -> tuple[type[nn.Module], ...]:
    import torch.ao.nn.intrinsic.qat as nniqat
    import torch.ao.nn.qat as nnqat

    fused = (nniqat.ConvBn1d, nniqat.ConvBn2d, nniqat.ConvBn3d, nniqat.LinearBn1d)
    return (nnqat.Linear, nnqat.Conv1d, nnqat.Conv2d, nnqat.Conv3d, *fused)


def _base(module: nn.Module) -> nn.Module:
    kind = next(kind for kind in type(module).__mro__ if kind.__module__.startswith("torch.nn.modules."))
    if kind is nn.modules.conv._ConvNd:
        kind = getattr(nn, f"Conv{len(module.kernel_size)}d")  # type: ignore[arg-type]
    twin: nn.Module = object.__new__(kind)
    twin.__dict__ = {name: value.copy() if isinstance(value, dict | set) else value for name, value in vars(module).items()}
    twin._modules = {}
    for hooks in (twin._forward_hooks, twin._forward_pre_hooks):
        hooks.clear()
    return twin


def _drop_observer(module: nn.Module) -> None:
    # Only in modules of our own. FloatFunctional calls its (identity) post-process by itself and keeps it.
    from torch.ao.nn.quantized import FloatFunctional

    if "activation_post_process" not in module._modules or isinstance(module, FloatFunctional):
        return
    del module._modules["activation_post_process"]
    for hooks in (module._forward_hooks, module._forward_pre_hooks):
        for handle, hook in list(hooks.items()):
            if getattr(hook, "__module__", "").startswith("torch.ao."):
                del hooks[handle]


def _unquantize_attention(module: nn.Module) -> None:
    """Let quantized attention call itself float, as its layers are: torch's prepare and convert go by the type."""
    import torch.ao.nn.quantizable as nnqa
    import torch.ao.nn.quantized as nnq

    if type(module) is nnq.MultiheadAttention:
        module.__class__ = nnqa.MultiheadAttention
        # What convert takes out of it, and no code reads.
        module.register_parameter("in_proj_weight", None)
        module.register_parameter("in_proj_bias", None)


def _never_read(twin: nn.Module) -> set[str]:
    """Return the joined projection of attention that has a linear layer for each: a leftover of its base class."""
    import torch.ao.nn.quantizable as nnqa

    attention = [path for path, module in twin.named_modules() if isinstance(module, nnqa.MultiheadAttention)]
    return {f"{path}.{name}" for path in attention for name in ("in_proj_weight", "in_proj_bias")}


def _assign(layer: nn.Module, weight: Tensor, bias: Tensor | None) -> None:
    layer.weight = nn.Parameter(weight.detach().dequantize(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach(), requires_grad=False)


def _quantized_weights(model: nn.Module) -> list[Tensor]:
    layers: list[Any] = [module for module in model.modules() if hasattr(module, "_weight_bias")]
    held = [layer._weight_bias() for layer in layers]
    # Recurrent layers have several, by name.
    weights = [weight for value in held for weight in (value["weight"].values() if isinstance(value, dict) else value[:1])]
    references: list[Any] = [module for module in model.modules() if hasattr(module, "get_quantized_weight")]
    weights += [layer.get_quantized_weight() for layer in references]
    return [weight for weight in weights if isinstance(weight, Tensor) and weight.is_quantized]
