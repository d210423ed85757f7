"""Float and quantizable models of torchvision whose every value is drawn at random, and images for them.

Everything is seeded; the global random state is neither read nor changed.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

IMAGE = 96  # pixels; the least that Inception-v3 takes is 75


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """How to build a quantizable model of torchvision: further arguments, and the image size of its training mode."""

    options: dict[str, Any] = field(default_factory=dict)
    train_image: int = IMAGE


# In the order of their cost. Inception's auxiliary head, which only training mode runs, needs its 299 pixels.
MODELS: dict[str, ModelSpec] = {
    "shufflenet_v2_x0_5": ModelSpec(),
    "resnet18": ModelSpec(),
    "shufflenet_v2_x1_0": ModelSpec(),
    "mobilenet_v2": ModelSpec(),
    "shufflenet_v2_x1_5": ModelSpec(),
    "mobilenet_v3_large": ModelSpec(),
    "shufflenet_v2_x2_0": ModelSpec(),
    "googlenet": ModelSpec({"init_weights": False}),
    "resnet50": ModelSpec(),
    "inception_v3": ModelSpec({"init_weights": False}, train_image=299),
    "resnext101_64x4d": ModelSpec(),
    "resnext101_32x8d": ModelSpec(),
}


def images(seed: int, *, batches: int = 2, batch: int = 2, size: int = IMAGE) -> list[Tensor]:
    """Draw batches of standard normal images, b c h w."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, 3, size, size, generator=generator) for _ in range(batches)]


def float_model(name: str, **kwargs: Any) -> nn.Module:
    """Build torchvision's float model, in eval mode, with uninitialised values."""
    return _construct(getattr(torchvision.models, name), name, kwargs)


def quantizable_model(name: str, **kwargs: Any) -> nn.Module:
    """Build torchvision's quantizable model, unfused, in eval mode, with uninitialised values."""
    return _construct(getattr(torchvision.models.quantization, name), name, {"quantize": False} | kwargs)


def _construct(factory: Callable[..., nn.Module], name: str, kwargs: dict[str, Any]) -> nn.Module:
    # On the meta device initialisation costs nothing; every value is set by whoever called.
    with torch.device("meta"):
        model = factory(**({"weights": None, "num_classes": 10} | MODELS[name].options | kwargs))
    return model.to_empty(device="cpu").eval()


def randomised_float(name: str, *, seed: int = 0, **kwargs: Any) -> nn.Module:
    """Build torchvision's float model in eval mode with every parameter, statistic and counter drawn at random.

    Weights are scaled by fan-in; statistics are measured in one forward pass in training mode and then disturbed, so that
    activations stay alive through a hundred layers, in auxiliary heads too.

    Args:
        name: a key of MODELS.
        seed: of everything that is drawn.
        kwargs: for torchvision's constructor; 10 classes unless `num_classes` is given.
    """
    model = float_model(name, **kwargs)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            _draw_parameters(module, generator)
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        _measure_statistics(model, norms, images(seed, batches=1, batch=4, size=MODELS[name].train_image)[0])
        for norm in norms:
            _disturb(norm, generator)
    return model


def _draw_parameters(module: nn.Module, generator: torch.Generator) -> None:
    if isinstance(module, nn.BatchNorm2d):
        module.weight.uniform_(0.5, 1.5, generator=generator)
        module.bias.normal_(0, 0.2, generator=generator)
    elif isinstance(module, nn.Conv2d | nn.Linear):
        fan_in = module.weight[0].numel()
        module.weight.normal_(0, math.sqrt(2 / fan_in), generator=generator)
        if module.bias is not None:
            module.bias.normal_(0, 0.1, generator=generator)
    elif any(True for _ in module.parameters(recurse=False)):
        raise TypeError(f"{type(module).__name__} has parameters that the recipe does not draw")


def _measure_statistics(model: nn.Module, norms: Sequence[nn.BatchNorm2d], batch: Tensor) -> None:
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = 1.0
    # Dropout draws from the global generator.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model.train()(batch)
    model.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def _disturb(norm: nn.BatchNorm2d, generator: torch.Generator) -> None:
    mean, var, count = norm.running_mean, norm.running_var, norm.num_batches_tracked
    if mean is None or var is None or count is None:
        raise TypeError("a batch norm without statistics")
    # A head that sees one position of few images can have channels with almost no variance.
    var.clamp_(min=0.05 * float(var.mean()))
    mean.add_(0.1 * var.sqrt() * torch.randn(mean.shape, generator=generator))
    var.mul_(torch.empty_like(var).uniform_(0.8, 1.25, generator=generator))
    count.fill_(int(torch.randint(1, 10**6, (), generator=generator)))
