"""Random weights and statistics for a whole model, at which activations stay finite: nothing is 0 or 1.

Default initialisation hides mistakes: norms of weight 1 and mean 0 are equal to one another, and a layer scale of zero
switches a block off.
"""

import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

_GAIN = 1.2


@torch.no_grad()
def randomise(model: nn.Module, seed: int, run: Callable[[nn.Module], Any]) -> None:
    """Draw every parameter and statistic; `run` runs the model once, to measure the statistics of its batch norms."""
    generator = torch.Generator().manual_seed(seed)
    done: set[int] = set()
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.is_floating_point() and id(parameter) not in done:
                done.add(id(parameter))
                parameter.copy_(_drawn(module, name, parameter, generator))
    _set_statistics(model, generator, run)
    nn.Module.eval(model)


def _normal(tensor: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    return torch.randn(tensor.shape, generator=generator) * deviation


def _uniform(tensor: Tensor, low: float, high: float, generator: torch.Generator) -> Tensor:
    return torch.rand(tensor.shape, generator=generator) * (high - low) + low


def _drawn(module: nn.Module, name: str, tensor: Tensor, generator: torch.Generator) -> Tensor:
    if name in ("original0", "weight_g"):  # the length of a normed weight
        return _uniform(tensor, 1.0, 2.0, generator)
    if isinstance(module, nn.Embedding):
        return _normal(tensor, 0.7, generator)
    if name == "in_proj_weight" or (name.endswith("weight") and tensor.dim() > 1 and tensor[0].numel() > 1):
        return _normal(tensor, _GAIN / math.sqrt(_fan_in(module, tensor)), generator)
    if name.endswith("bias") or name == "beta":
        return _normal(tensor, 0.25, generator)
    if name.endswith("weight") or name in ("gamma", "scale"):
        return _uniform(tensor, 0.5, 1.5, generator)
    if tensor.dim() == 0:
        return _uniform(tensor, 0.5, 1.2, generator)
    if tensor.squeeze().dim() <= 1:
        if re.search("gamma|lambda|scale|ls", name):
            return _uniform(tensor, 0.4, 1.2, generator)
        return _normal(tensor, 0.3, generator)
    return _normal(tensor, 0.4, generator)


def _fan_in(module: nn.Module, weight: Tensor) -> int:
    if type(module).__name__ == "Conv1D":  # of transformers: i o
        return weight.shape[0]
    if isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d):
        return 2 * weight.shape[0]
    return weight[0].numel()


def _norms(model: nn.Module) -> Iterator[Any]:
    for module in model.modules():
        if getattr(module, "running_mean", None) is not None and hasattr(module, "momentum"):
            yield module


def _set_statistics(model: nn.Module, generator: torch.Generator, run: Callable[[nn.Module], Any]) -> None:
    """Give every batch norm the statistics of what enters it, disturbed."""
    norms = list(_norms(model))
    if not norms:
        return
    nn.Module.eval(model)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.running_mean.copy_(_normal(norm.running_mean, 0.3, generator))
        norm.running_var.copy_(_uniform(norm.running_var, 0.5, 1.5, generator))
        norm.momentum = 1.0
        norm.training = True
    run(model)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.training = False
        mean, var = norm.running_mean, norm.running_var
        var.nan_to_num_(1.0, 1.0, 1.0).clamp_(max=1e12)
        var.mul_(_uniform(var, 0.6, 1.4, generator)).add_(0.02 + 0.05 * var.mean())
        mean.nan_to_num_(0.0, 0.0, 0.0).add_(_normal(mean, 0.2, generator) * var.sqrt())


def clear_caches(model: nn.Module) -> None:
    """Drop what models cache in eval mode and keep when weights are loaded, such as the position biases of LeViT."""
    for module in model.modules():
        for name, value in vars(module).items():
            if name in ("attention_bias_cache", "_rel_pos_cache", "cached_penalty_mask") and isinstance(value, dict):
                value.clear()
        if "ab" in vars(module) or "attention_biases" in module._parameters:
            module.train(True)
            module.train(False)
