"""Networks: random chains of layers, twice, in spellings, names and orders of their own, with the planted truth."""

import random
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.unseen.spellings import ACTIVATIONS, KINDS, LENGTH, WIDTH, Kind, Spelling


@dataclass(frozen=True)
class Layer:
    """One layer of a chain: its kind, the spellings of both sides, and the activation behind it, if any."""

    kind: Kind
    src: type[Spelling]
    dst: type[Spelling]
    act: int | None


class Chain(nn.Module):
    """The layers of one side, under random names, registered in a random order."""

    def __init__(self, layers: tuple[Layer, ...], *, source: bool, seed: int) -> None:
        super().__init__()
        rng = random.Random(seed)
        self.layers = layers
        self.order = [f"{rng.choice('abcdefgh')}{rng.randrange(100)}_{index}" for index in range(len(layers))]
        made = [(layer.src if source else layer.dst)() for layer in layers]
        for index in rng.sample(range(len(layers)), len(layers)):
            self.add_module(self.order[index], made[index])

    def forward(self, x: Tensor) -> Tensor:
        """Run all layers, `b t d`."""
        for layer, name in zip(self.layers, self.order, strict=True):
            y = getattr(self, name)(x)
            y = y if layer.act is None else ACTIVATIONS[layer.act](y)
            x = x + y if layer.kind.residual else y
        return x


@dataclass(frozen=True)
class Unseen:
    """A pair of networks that compute one function where the destination has the weights of `truth`."""

    src: Chain
    dst: Chain
    inputs: Tensor

    @classmethod
    def drawn(cls, seed: int, depth: int = 4) -> "Unseen":
        """Draw a pair; the same for the same seed."""
        rng = random.Random(seed)
        torch.manual_seed(seed)
        layers = []
        for _ in range(rng.randint(2, depth)):
            kind = rng.choice(KINDS)
            act = rng.randrange(len(ACTIVATIONS)) if kind.act else None
            usable = [spelling for spelling in kind.spellings if not spelling.source_only]
            layers.append(Layer(kind, rng.choice(kind.spellings), rng.choice(usable), act))
        layers.append(Layer(KINDS[0], rng.choice(KINDS[0].spellings[:5]), rng.choice(KINDS[0].spellings[:5]), None))
        chain = tuple(layers)
        src, dst = Chain(chain, source=True, seed=seed).eval(), Chain(chain, source=False, seed=seed + 1).eval()
        return cls(src, dst, torch.randn(2, LENGTH, WIDTH))

    def truth(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the destination's weights that make it compute what the source computes."""
        made: dict[str, Tensor] = {}
        for layer, ours, theirs in zip(self.src.layers, self.src.order, self.dst.order, strict=True):
            own = {key.removeprefix(f"{ours}."): value for key, value in state.items() if key.startswith(f"{ours}.")}
            made |= {f"{theirs}.{key}": value for key, value in layer.dst.own(layer.src.plain(own)).items()}
        return made

    def __str__(self) -> str:
        return ", ".join(f"{layer.src.__name__}->{layer.dst.__name__}" for layer in self.src.layers)
