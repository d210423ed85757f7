"""Reference recipes of the forms whose models are graphs: torch.ao's FX mode, and PT2E of torchao.

As in `forms`, the float weights are loaded first, and then the model is prepared, calibrated and converted. Nothing here
knows fxmap.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.ao.quantization as tq
from torch import Tensor, fx, nn
from torch.ao.quantization import quantize_fx

Build = Callable[[nn.Module, Sequence[Tensor], Tensor], nn.Module]


def _fused_fx(model: nn.Module, batches: Sequence[Tensor], example: Tensor) -> nn.Module:
    built: nn.Module = quantize_fx.fuse_fx(model)
    return built


def _prepared_fx(model: nn.Module, batches: Sequence[Tensor], example: Tensor) -> nn.Module:
    prepared = quantize_fx.prepare_fx(model, tq.get_default_qconfig_mapping("fbgemm"), (example,))
    return show(prepared, batches)


def _qat_fx(model: nn.Module, batches: Sequence[Tensor], example: Tensor) -> nn.Module:
    built: nn.Module = quantize_fx.prepare_qat_fx(model.train(), tq.get_default_qat_qconfig_mapping("fbgemm"), (example,))
    return built


def _int8_fx(model: nn.Module, batches: Sequence[Tensor], example: Tensor) -> nn.Module:
    built: nn.Module = quantize_fx.convert_fx(_prepared_fx(model, batches, example))
    return built


def _reference_fx(model: nn.Module, batches: Sequence[Tensor], example: Tensor) -> nn.Module:
    built: nn.Module = quantize_fx.convert_to_reference_fx(_prepared_fx(model, batches, example))
    return built


def _x86(*, is_qat: bool) -> Any:
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    return x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config(is_qat=is_qat))


def _xnnpack(*, is_qat: bool) -> Any:
    # ExecuTorch ships it for users; torchao keeps a copy for its own tests.
    from torchao.testing.pt2e import _xnnpack_quantizer as xnnpack

    config = xnnpack.get_symmetric_quantization_config(is_per_channel=True, is_qat=is_qat)
    return xnnpack.XNNPACKQuantizer().set_global(config)


def _prepared_pt2e(quantizer: Callable[..., Any]) -> Build:
    def build(model: nn.Module, batches: Sequence[Tensor], example: Tensor) -> nn.Module:
        from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e

        return show(prepare_pt2e(_exported(model, example), quantizer(is_qat=False)), batches)

    return build


def _qat_pt2e(quantizer: Callable[..., Any]) -> Build:
    def build(model: nn.Module, batches: Sequence[Tensor], example: Tensor) -> nn.Module:
        from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e

        # Norms alone train: heads that only training runs would be in the graph, and need larger images.
        for module in model.modules():
            module.training = isinstance(module, nn.modules.batchnorm._BatchNorm)
        built: nn.Module = prepare_qat_pt2e(_exported(model, example), quantizer(is_qat=True))
        return built

    return build


def _int8_pt2e(quantizer: Callable[..., Any]) -> Build:
    def build(model: nn.Module, batches: Sequence[Tensor], example: Tensor) -> nn.Module:
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

        built: nn.Module = convert_pt2e(_prepared_pt2e(quantizer)(model, batches, example))
        return built

    return build


def _exported(model: nn.Module, example: Tensor) -> nn.Module:
    # Strict, since otherwise two calls of one ReLU are one partition, which the x86 quantizer refuses.
    return torch.export.export(model, (example,), strict=True).module()


BUILDERS: dict[str, Build] = {
    "fx-fused": _fused_fx,
    "fx-prepared": _prepared_fx,
    "fx-qat": _qat_fx,
    "fx-int8": _int8_fx,
    "fx-reference": _reference_fx,
    "pt2e-x86-prepared": _prepared_pt2e(_x86),
    "pt2e-x86-qat": _qat_pt2e(_x86),
    "pt2e-x86-int8": _int8_pt2e(_x86),
    "pt2e-xnnpack-prepared": _prepared_pt2e(_xnnpack),
    "pt2e-xnnpack-qat": _qat_pt2e(_xnnpack),
    "pt2e-xnnpack-int8": _int8_pt2e(_xnnpack),
}


def dequantized_layers(model: fx.GraphModule) -> dict[str, tuple[Tensor, Tensor | None]]:
    """Return the dequantized weight and the bias of every layer of a graph of convert_pt2e, by the layer's path."""
    found: dict[str, tuple[Tensor, Tensor | None]] = {}
    for node in model.graph.nodes:
        if not str(node.target).startswith(("aten.conv", "aten.linear")):
            continue
        weight = node.args[1]
        *_, (path, _) = node.meta["nn_module_stack"].values()
        arguments = [_tensor(model, part) for part in weight.args]
        bias = node.args[2] if len(node.args) > 2 else None
        found[path] = weight.target(*arguments), None if bias is None else _tensor(model, bias)
    return found


def _tensor(model: nn.Module, value: Any) -> Any:
    if not isinstance(value, fx.Node):
        return value
    owner, _, name = str(value.target).rpartition(".")
    return getattr(model.get_submodule(owner), name).detach()


def show(model: nn.Module, batches: Sequence[Tensor]) -> nn.Module:
    """Show batches to the observers of a model."""
    with torch.no_grad():
        for batch in batches:
            model(batch)
    return model


def without_source(form: str, keys: set[str]) -> set[str]:
    """Return the keys of a graph's state dict that no float weight makes: observers, ranges of activations, constants."""
    observers = {key for key in keys if "activation_post_process" in key or "weight_fake_quant" in key}
    if form.startswith("pt2e-"):
        # The scales of a converted graph are those of its weights; ranges of activations are literals.
        return observers
    ranges = {key for key in keys if re.fullmatch(r"\w*_?(scale|zero_point)_\d+", key)}
    constants = {key for key in keys if key.rpartition(".")[2] in ("weight_axis", "weight_qscheme", "weight_dtype")}
    return observers | ranges | constants
