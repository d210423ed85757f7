"""Spellings: each layer written in several ways, with the weights of each in those of one plain form, and back.

A spelling is a module on `b t d` whose `plain(state)` returns the plain weights, by name, from its own state; `own(plain)`
goes the other way, and is None where that is not possible (a low-rank update cannot be taken apart), so that the spelling
may be a source alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Weights = dict[str, Tensor]
WIDTH, HEADS, LENGTH = 8, 2, 6


def parameter(*shape: int) -> nn.Parameter:
    """Return a parameter of random numbers."""
    return nn.Parameter(torch.randn(*shape) / max(shape[-1], 1) ** 0.5 if len(shape) > 1 else 1 + 0.3 * torch.randn(*shape))


class Spelling(nn.Module):
    """One way to write a layer."""

    source_only: ClassVar[bool] = False

    @staticmethod
    def plain(state: Weights) -> Weights:
        """Return the plain weights."""
        return dict(state)

    @staticmethod
    def own(plain: Weights) -> Weights:
        """Return the weights of this spelling."""
        return dict(plain)


# -- linear: weight `o i`, bias `o`


class Linear(Spelling):
    """The plain form."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = parameter(WIDTH, WIDTH), parameter(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class Product(Spelling):
    """A product from the right."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.shift = parameter(WIDTH, WIDTH), parameter(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.kernel + self.shift

    @staticmethod
    def plain(state: Weights) -> Weights:
        return {"weight": state["kernel"].t(), "bias": state["shift"]}

    @staticmethod
    def own(plain: Weights) -> Weights:
        return {"kernel": plain["weight"].t(), "shift": plain["bias"]}


class Homogeneous(Spelling):
    """Weight and bias in one matrix, on inputs with a one behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = parameter(WIDTH + 1, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, torch.ones_like(x[..., :1])], -1) @ self.matrix

    @staticmethod
    def plain(state: Weights) -> Weights:
        return {"weight": state["matrix"][:-1].t(), "bias": state["matrix"][-1]}

    @staticmethod
    def own(plain: Weights) -> Weights:
        return {"matrix": torch.cat([plain["weight"].t(), plain["bias"][None]])}


class Halves(Spelling):
    """Two layers of half the outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, WIDTH // 2), nn.Linear(WIDTH, WIDTH // 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.first(x), self.second(x)], -1)

    @staticmethod
    def plain(state: Weights) -> Weights:
        return {name: torch.cat([state[f"first.{name}"], state[f"second.{name}"]]) for name in ("weight", "bias")}

    @staticmethod
    def own(plain: Weights) -> Weights:
        parts = {name: plain[name].chunk(2) for name in ("weight", "bias")}
        return {f"{half}.{name}": parts[name][i] for i, half in enumerate(("first", "second")) for name in parts}


class Pointwise(Spelling):
    """A convolution of width one over time."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv1d(WIDTH, WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.mix(x.transpose(1, 2))
        return made.transpose(1, 2)

    @staticmethod
    def plain(state: Weights) -> Weights:
        return {"weight": state["mix.weight"][..., 0], "bias": state["mix.bias"]}

    @staticmethod
    def own(plain: Weights) -> Weights:
        return {"mix.weight": plain["weight"][..., None], "mix.bias": plain["bias"]}


class Adapted(Spelling):
    """A low-rank update beside a layer."""

    source_only = True

    def __init__(self) -> None:
        super().__init__()
        self.base, self.down, self.up = nn.Linear(WIDTH, WIDTH), parameter(2, WIDTH), parameter(WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.base(x) + 2 * (x @ self.down.t()) @ self.up.t()
        return made

    @staticmethod
    def plain(state: Weights) -> Weights:
        return {"weight": state["base.weight"] + 2 * state["up"] @ state["down"], "bias": state["base.bias"]}


class Standardised(Spelling):
    """A weight that is standardised row by row before it is used."""

    source_only = True

    def __init__(self) -> None:
        super().__init__()
        self.raw = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, _standardised(self.raw.weight), self.raw.bias)

    @staticmethod
    def plain(state: Weights) -> Weights:
        return {"weight": _standardised(state["raw.weight"]), "bias": state["raw.bias"]}


def _standardised(weight: Tensor) -> Tensor:
    return (weight - weight.mean(1, keepdim=True)) / (weight.std(1, keepdim=True) + 1e-3)


class ScaledInput(Spelling):
    """An input that is scaled by channel before the layer."""

    source_only = True

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.layer = parameter(WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.layer(x * self.scale)
        return made

    @staticmethod
    def plain(state: Weights) -> Weights:
        return {"weight": state["layer.weight"] * state["scale"], "bias": state["layer.bias"]}


# -- convolution over time: kernel `o i k`, bias `o`


class Convolution(Spelling):
    """The plain form."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.bias = parameter(WIDTH, WIDTH, 3), parameter(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv1d(x.transpose(1, 2), self.kernel, self.bias, padding=1).transpose(1, 2)


class Patches(Spelling):
    """A product with patches."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(3 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.dense(F.pad(x, (0, 0, 1, 1)).unfold(1, 3, 1).transpose(2, 3).flatten(2))
        return made

    @staticmethod
    def plain(state: Weights) -> Weights:
        return {"kernel": state["dense.weight"].view(WIDTH, 3, WIDTH).transpose(1, 2), "bias": state["dense.bias"]}

    @staticmethod
    def own(plain: Weights) -> Weights:
        return {"dense.weight": plain["kernel"].transpose(1, 2).reshape(WIDTH, -1), "dense.bias": plain["bias"]}


class Taps(Spelling):
    """A sum of shifted products, one for each tap."""

    def __init__(self) -> None:
        super().__init__()
        self.taps, self.shift = parameter(3, WIDTH, WIDTH), parameter(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(x, (0, 0, 1, 1))
        return sum((padded[:, k : k + x.shape[1]] @ self.taps[k] for k in range(3)), self.shift)

    @staticmethod
    def plain(state: Weights) -> Weights:
        return {"kernel": state["taps"].permute(2, 1, 0), "bias": state["shift"]}

    @staticmethod
    def own(plain: Weights) -> Weights:
        return {"taps": plain["kernel"].permute(2, 1, 0), "shift": plain["bias"]}


class Flat(Spelling):
    """A convolution of images of height one."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Conv2d(WIDTH, WIDTH, (1, 3), padding=(0, 1))

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.image(x.transpose(1, 2)[:, :, None])
        return made[:, :, 0].transpose(1, 2)

    @staticmethod
    def plain(state: Weights) -> Weights:
        return {"kernel": state["image.weight"][:, :, 0], "bias": state["image.bias"]}

    @staticmethod
    def own(plain: Weights) -> Weights:
        return {"image.weight": plain["kernel"][:, :, None], "image.bias": plain["bias"]}


# -- norm: gain and shift by channel


class Norm(Spelling):
    """The plain form."""

    def __init__(self) -> None:
        super().__init__()
        self.gain, self.shift = parameter(WIDTH), parameter(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (WIDTH,), self.gain, self.shift)


class Moments(Spelling):
    """A variance as the mean of squares without the square of the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.both = parameter(2, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(-1, keepdim=True)
        variance = (x * x).mean(-1, keepdim=True) - mean * mean
        return self.both[0] * ((x - mean) / torch.sqrt(variance + 1e-5)) + self.both[1]

    @staticmethod
    def plain(state: Weights) -> Weights:
        return {"gain": state["both"][0], "shift": state["both"][1]}

    @staticmethod
    def own(plain: Weights) -> Weights:
        return {"both": torch.stack([plain["gain"], plain["shift"]])}


# -- attention: four weights `o i`, four biases


def heads(x: Tensor) -> Tensor:
    """Split channels into heads, `b t (h e) -> b h t e`."""
    return x.view(*x.shape[:2], HEADS, -1).transpose(1, 2)


def attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return what attention reads, with the heads joined again."""
    scores = q @ k.transpose(-1, -2) * (WIDTH // HEADS) ** -0.5
    read: Tensor = scores.softmax(-1) @ v
    return read.transpose(1, 2).flatten(2)


class Attention(Spelling):
    """The plain form."""

    def __init__(self) -> None:
        super().__init__()
        for name in "qkvo":
            self.register_parameter(f"w{name}", parameter(WIDTH, WIDTH))
            self.register_parameter(f"b{name}", parameter(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        def project(name: str, x: Tensor) -> Tensor:
            return F.linear(x, getattr(self, f"w{name}"), getattr(self, f"b{name}"))

        q, k, v = (heads(project(name, x)) for name in "qkv")
        return project("o", F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Joined(Spelling):
    """One projection for queries, keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.out(attended(*(heads(part) for part in self.qkv(x).chunk(3, -1))))
        return made

    @staticmethod
    def plain(state: Weights) -> Weights:
        parts = {"w": state["qkv.weight"].chunk(3), "b": state["qkv.bias"].chunk(3)}
        found = {f"{kind}{name}": parts[kind][i] for kind in parts for i, name in enumerate("qkv")}
        return {**found, "wo": state["out.weight"], "bo": state["out.bias"]}

    @staticmethod
    def own(plain: Weights) -> Weights:
        joined = {kind: torch.cat([plain[f"{kind}{name}"] for name in "qkv"]) for kind in "wb"}
        return {"qkv.weight": joined["w"], "qkv.bias": joined["b"], "out.weight": plain["wo"], "out.bias": plain["bo"]}


class ByHead(Spelling):
    """Weights with an axis for the heads, in einsums."""

    def __init__(self) -> None:
        super().__init__()
        part = WIDTH // HEADS
        for name in "qkv":
            self.register_parameter(name, parameter(HEADS, WIDTH, part))
            self.register_parameter(f"shift_{name}", parameter(HEADS, 1, part))
        self.o, self.shift = parameter(HEADS, part, WIDTH), parameter(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        def project(name: str) -> Tensor:
            made: Tensor = torch.einsum("btd,hde->bhte", x, getattr(self, name)) + getattr(self, f"shift_{name}")
            return made

        q, k, v = map(project, "qkv")
        scores = torch.einsum("bhqe,bhke->bhqk", q, k) * (WIDTH // HEADS) ** -0.5
        made: Tensor = torch.einsum("bhqk,bhke,hed->bqd", scores.softmax(-1), v, self.o) + self.shift
        return made

    @staticmethod
    def plain(state: Weights) -> Weights:
        found = {f"w{name}": state[name].transpose(1, 2).reshape(WIDTH, WIDTH) for name in "qkv"}
        found |= {f"b{name}": state[f"shift_{name}"].flatten() for name in "qkv"}
        return {**found, "wo": state["o"].reshape(WIDTH, WIDTH).t(), "bo": state["shift"]}

    @staticmethod
    def own(plain: Weights) -> Weights:
        found = {name: plain[f"w{name}"].view(HEADS, -1, WIDTH).transpose(1, 2) for name in "qkv"}
        found |= {f"shift_{name}": plain[f"b{name}"].view(HEADS, 1, -1) for name in "qkv"}
        return {**found, "o": plain["wo"].t().reshape(HEADS, -1, WIDTH), "shift": plain["bo"]}


# -- position: a table `t d`


class Position(Spelling):
    """The plain form."""

    def __init__(self) -> None:
        super().__init__()
        self.table = parameter(LENGTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table


class Looked(Spelling):
    """A lookup of the positions."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Embedding(LENGTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = x + self.rows(torch.arange(LENGTH, device=x.device))
        return made

    @staticmethod
    def plain(state: Weights) -> Weights:
        return {"table": state["rows.weight"]}

    @staticmethod
    def own(plain: Weights) -> Weights:
        return {"rows.weight": plain["table"]}


@dataclass(frozen=True)
class Kind:
    """A layer: its spellings, and whether its input is added to its output."""

    name: str
    spellings: tuple[type[Spelling], ...]
    residual: bool = False
    act: bool = False


KINDS = (
    Kind("linear", (Linear, Product, Homogeneous, Halves, Pointwise, Adapted, Standardised, ScaledInput), act=True),
    Kind("convolution", (Convolution, Patches, Taps, Flat), act=True),
    Kind("norm", (Norm, Moments)),
    Kind("attention", (Attention, Joined, ByHead), residual=True),
    Kind("position", (Position, Looked)),
)

Activation = Callable[[Tensor], Tensor]
ACTIVATIONS: tuple[Activation, ...] = (torch.tanh, F.gelu, F.silu, F.relu)
