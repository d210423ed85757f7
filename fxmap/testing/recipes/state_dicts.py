"""What the state dict of a form must hold: which keys have a float source, and the way from int8 back to float."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.ao.nn.intrinsic as nni
import torch.ao.quantization as tq
from torch import Tensor, fx, nn

from fxmap.testing.compare import same_value
from fxmap.testing.recipes import graphs
from fxmap.testing.recipes.forms import Form, State, build_form, fuse
from fxmap.testing.recipes.models import float_model, quantizable_model


def sourced_keys(model: nn.Module, form: str = "") -> set[str]:
    """Return the keys of a form that have a float source.

    All but the keys of observers and fake-quants, and the activation ranges and constants of quantized modules.
    """
    keys = set(model.state_dict())
    if form in graphs.BUILDERS:
        keys -= graphs.without_source(form, keys)
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        if isinstance(module, tq.ObserverBase | tq.FakeQuantizeBase):
            keys -= {key for key in keys if key.startswith(prefix)}
        elif ".quantized." in type(module).__module__:
            keys -= {prefix + name for name in ("scale", "zero_point", "_packed_params.dtype")}
    return keys


def layers(name: str, **kwargs: Any) -> dict[str, str | None]:
    """Return the path of every convolution and linear layer, and of the batch norm that torch fuses with it, or None."""
    model = quantizable_model(name, **kwargs)
    paths = {id(module): path for path, module in model.named_modules()}
    found: dict[str, str | None] = {
        path: None for path, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)
    }
    fuse(model.train(), is_qat=True)
    # Fusing for QAT keeps the modules themselves, side by side.
    for module in model.modules():
        if isinstance(module, nni.ConvBn2d | nni.ConvBnReLU2d):
            found[paths[id(module[0])]] = paths[id(module[1])]
    return found


def dequantized_layers(model: nn.Module) -> dict[str, tuple[Tensor, Tensor | None]]:
    """Return the dequantized weight and the bias of every quantized layer of an int8 model, by path."""
    if isinstance(model, fx.GraphModule) and "_frozen_param0" in model.state_dict():
        return graphs.dequantized_layers(model)
    found = {}
    for path, module in model.named_modules():
        if callable(getattr(module, "_weight_bias", None)) and not path.endswith("_packed_params"):
            weight, bias = module._weight_bias()
            found[path] = weight.dequantize(), bias
    return found


def float_reference(name: str, int8: nn.Module, own: State, **kwargs: Any) -> dict[str, Any]:
    """Make the float state dict that folds to an int8 model's dequantized weights: neutral batch norms.

    Layers that the int8 model does not have keep the destination's own values, see `lost_keys`.

    Args:
        name: a key of MODELS.
        int8: the model to go back from.
        own: the float destination's own state dict: its counters are kept.
        kwargs: for torchvision's constructor.
    """
    state = dict(own)
    quantized = dequantized_layers(int8)
    eps = _norm_eps(float_model(name, **kwargs))
    for path, norm in layers(name, **kwargs).items():
        if path not in quantized:
            continue
        weight, bias = quantized[path]
        state[f"{path}.weight"] = weight
        if bias is not None:
            state[f"{path}.bias" if norm is None else f"{norm}.bias"] = bias
        if norm is not None:
            ones = torch.ones(len(weight))
            state |= {f"{norm}.weight": ones, f"{norm}.running_mean": 0 * ones}
            state[f"{norm}.running_var"] = ones * _neutral_variance(eps[norm])
    return state


def lost_keys(name: str, int8: nn.Module, keys: Iterable[str], **kwargs: Any) -> set[str]:
    """Return which float keys belong to layers that an int8 model does not have: a head that only training runs.

    Only a graph that was exported in eval mode lacks any.
    """
    quantized = dequantized_layers(int8)
    owners = {part for path, norm in layers(name, **kwargs).items() if path not in quantized for part in (path, norm)}
    return {key for key in keys if key.rpartition(".")[0] in owners}


def _norm_eps(model: nn.Module) -> dict[str, float]:
    return {path: module.eps for path, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}


def _neutral_variance(eps: float) -> Tensor:
    """Return a variance of float32 whose sum with eps is 1 in float32."""
    var = torch.tensor(1 - eps, dtype=torch.float32)
    steps = [var, torch.nextafter(var, torch.tensor(2.0)), torch.nextafter(var, torch.tensor(0.0))]
    return next(step for step in steps if step + eps == 1)


def with_fold_factors(model: nn.Module, state: State) -> dict[str, Any]:
    """Replace every running variance by 1 / sqrt(var + eps): all that folding takes from it.

    More than one variance of float32 is neutral; which of them is no matter of right and wrong.
    """
    norms = {path: module.eps for path, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    return dict(state) | {
        f"{path}.running_var": torch.rsqrt(state[f"{path}.running_var"] + eps) for path, eps in norms.items()
    }


def refolds(name: str, filled: nn.Module, int8: nn.Module, **kwargs: Any) -> bool:
    """Tell whether torch's own fusion of a float model gives an int8 model's dequantized weights and its biases exactly."""
    fused = build_form(name, Form.FUSED, filled.state_dict(), **kwargs)
    for path, (weight, bias) in dequantized_layers(int8).items():
        module = fused.get_submodule(path)
        layer: Any = module[0] if isinstance(module, nn.Sequential) else module
        if not same_value(layer.weight.detach(), weight):
            return False
        if bias is not None and not same_value(layer.bias.detach(), bias):
            return False
    return True
