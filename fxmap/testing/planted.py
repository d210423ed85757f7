"""Random networks of convolutions with a planted mapping: one specification, built twice under other names and orders."""

import random
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Layer:
    """One step: what it computes, from which earlier values."""

    kind: str  # conv, depthwise, grouped, norm_conv, relu, add, cat
    inputs: tuple[int, ...]
    channels: int
    kernel: int = 3


def specification(seed: int, length: int = 8) -> list[Layer]:
    """Draw a network of convolutions, branches, sums and concatenations. Value 0 is the input, of 3 channels."""
    rng = random.Random(seed)
    layers = [Layer("norm_conv", (0,), 8)]
    channels = [3, 8]
    while len(layers) < length:
        kind = rng.choice(["conv", "norm_conv", "norm_conv", "depthwise", "grouped", "relu", "add", "cat"])
        source = rng.randrange(max(1, len(channels) - 4), len(channels))
        if kind == "add":
            others = [i for i in range(1, len(channels)) if channels[i] == channels[source] and i != source]
            if not others:
                continue
            layers.append(Layer(kind, (source, rng.choice(others)), channels[source]))
        elif kind == "cat":
            other = rng.randrange(1, len(channels))
            layers.append(Layer(kind, (source, other), channels[source] + channels[other]))
        elif kind in ("relu", "depthwise"):
            layers.append(Layer(kind, (source,), channels[source], rng.choice([1, 3]) if kind == "depthwise" else 1))
        else:
            if kind == "grouped" and channels[source] % 2:
                continue
            layers.append(Layer(kind, (source,), rng.choice([4, 8, 12]), rng.choice([1, 3])))
        channels.append(layers[-1].channels)
    # Nothing is dead: what no layer reads goes into the last concatenation.
    unread = sorted(set(range(1, len(channels))) - {i for layer in layers for i in layer.inputs})
    if len(unread) > 1:
        layers.append(Layer("cat", tuple(unread), sum(channels[i] for i in unread)))
    return layers


class Network(nn.Module):
    """A specification as a module; `name` gives every layer its path, and `order` the order of registration."""

    def __init__(self, layers: list[Layer], names: list[str], order: list[int], folded: bool = False) -> None:
        super().__init__()
        self.layers, self.names, self.folded = layers, names, folded
        channels = [3, *(layer.channels for layer in layers)]
        for i in order:
            layer, before = layers[i], channels[layers[i].inputs[0]]
            if layer.kind in ("relu", "add", "cat"):
                continue
            groups = {"depthwise": before, "grouped": 2}.get(layer.kind, 1)
            norm = layer.kind == "norm_conv"
            conv = nn.Conv2d(
                before, layer.channels, layer.kernel, padding=layer.kernel // 2, groups=groups, bias=not norm or folded
            )
            self._register(names[i], conv)
            if norm and not folded:
                self._register(f"{names[i]}_norm", nn.BatchNorm2d(layer.channels))
        last = channels[-1]
        self._register(names[-1], nn.Linear(last, 5))

    def _register(self, path: str, module: nn.Module) -> None:
        owner: nn.Module = self
        *parents, name = path.split(".")
        for parent in parents:
            if parent not in owner._modules:
                owner.add_module(parent, nn.Module())
            owner = owner.get_submodule(parent)
        owner.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for layer, name in zip(self.layers, self.names[:-1], strict=True):
            inputs = [values[i] for i in layer.inputs]
            if layer.kind == "add":
                values.append(inputs[0] + inputs[1])
            elif layer.kind == "cat":
                values.append(torch.cat(inputs, 1))
            elif layer.kind == "relu":
                values.append(torch.relu(inputs[0]))
            else:
                value = self.get_submodule(name)(inputs[0])
                if layer.kind == "norm_conv" and not self.folded:
                    value = self.get_submodule(f"{name}_norm")(value)
                values.append(value)
        logits: Tensor = self.get_submodule(self.names[-1])(values[-1].mean((2, 3)))
        return logits


def names(seed: int, count: int, *, nested: bool) -> list[str]:
    """Draw names that say nothing, nested to different depths if asked."""
    rng = random.Random(seed)
    words = ["".join(rng.choices("bcdfgklmnprst", k=4)) + str(i) for i in range(count)]
    return [
        ".".join([*(f"n{rng.randrange(3)}" for _ in range(rng.randrange(3))), word]) if nested else word for word in words
    ]


def planted_pair(seed: int, *, folded: bool = False, length: int = 8) -> tuple[Network, Network, dict[str, str]]:
    """Build one network twice, and say which layer of the destination is which of the source."""
    layers = specification(seed, length)
    count = len(layers) + 1
    ours, theirs = names(seed, count, nested=False), names(seed + 1, count, nested=True)
    order = list(range(len(layers)))
    random.Random(seed + 2).shuffle(order)
    src = Network(layers, ours, list(range(len(layers)))).eval()
    dst = Network(layers, theirs, order, folded).eval()
    return randomised(src, seed), dst, dict(zip(theirs, ours, strict=True))


def randomised(model: M, seed: int) -> M:
    """Give every floating-point tensor of a model a random value, variances a positive one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not tensor.is_floating_point():
                tensor.fill_(7)
            elif name.endswith("running_var") or (tensor.dim() == 1 and name.endswith("weight")):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            else:
                fan_in = max(1, tensor[0].numel()) if tensor.dim() > 1 else 10
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * (2 / fan_in) ** 0.5)
    return model
