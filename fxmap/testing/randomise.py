"""Random weights and statistics for a whole model, at which activations stay finite: nothing is 0 or 1.

Default initialisation hides mistakes: norms of weight 1 and mean 0 are equal to one another, and a layer scale of zero
switches a block off.
"""

import math
import re
from collections.abc import Callable
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


def _set_statistics(model: nn.Module, generator: torch.Generator, run: Callable[[nn.Module], Any]) -> None:
    """Give every batch norm the statistics of what enters it first, disturbed; what is not run gets random ones."""
    nn.Module.eval(model)
    norms: list[Any] = [module for module in model.modules() if getattr(module, "running_mean", None) is not None]
    for norm in norms:
        _fill(norm, _normal(norm.running_mean, 0.3, generator), _uniform(norm.running_var, 0.5, 1.5, generator))
    done: set[nn.Module] = set()

    def measure(norm: Any, args: tuple[Any, ...]) -> None:
        if norm in done or not args or not isinstance(args[0], Tensor):
            return
        done.add(norm)
        var, mean = torch.var_mean(args[0], [d for d in range(args[0].dim()) if d != 1], unbiased=False)
        var = var * _uniform(var, 0.6, 1.4, generator) + 0.02 + 0.05 * var.mean()
        _fill(norm, mean + _normal(mean, 0.2, generator) * var.sqrt(), var)

    hooks = [norm.register_forward_pre_hook(measure) for norm in norms]
    try:
        if norms:
            run(model)
    finally:
        for hook in hooks:
            hook.remove()


def _fill(norm: Any, mean: Tensor, var: Tensor) -> None:
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(var)


def clear_caches(model: nn.Module) -> None:
    """Drop what models cache in eval mode and keep when weights are loaded, such as the position biases of LeViT."""
    for module in model.modules():
        for name, value in vars(module).items():
            if name in ("attention_bias_cache", "_rel_pos_cache", "cached_penalty_mask") and isinstance(value, dict):
                value.clear()
        if "ab" in vars(module) or "attention_biases" in module._parameters:
            module.train(True)
            module.train(False)
