"""Networks of any size, in two implementations that name and order everything differently."""

import random
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTHS = (4, 6, 8, 12)
OPS_A_BLOCK = 6  # norm, two linear layers, activation, product, sum


class Residual(nn.Module):
    """A gated residual network on 8 channels: x + down(act(up(norm(x))) ...), with random widths and activations."""

    def __init__(self, blocks: int, seed: int) -> None:
        super().__init__()
        rng = random.Random(seed)
        self.blocks = nn.ModuleList(_Block(rng.choice(WIDTHS), rng.choice((F.relu, F.silu, F.tanh))) for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        """Run all blocks, b 8."""
        for block in self.blocks:
            x = block(x)
        return x


class _Block(nn.Module):
    def __init__(self, width: int, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, width), nn.Linear(width, 8)
        self.gate = nn.Parameter(torch.rand(8) + 0.5)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.down(self.act(self.up(self.norm(x))))
        return x + self.gate * hidden


class Shuffled(nn.Module):
    """`Residual` again: other names, no nesting, and every tensor registered at a random place."""

    def __init__(self, blocks: int, seed: int) -> None:
        super().__init__()
        rng = random.Random(seed)
        self.steps = [(rng.choice(WIDTHS), rng.choice((F.relu, F.silu, F.tanh))) for _ in range(blocks)]
        shapes: dict[str, tuple[int, ...]] = {}
        for i, (width, _) in enumerate(self.steps):
            shapes |= {f"a{i}": (8,), f"b{i}": (8,), f"c{i}": (width, 8), f"d{i}": (width,)}
            shapes |= {f"e{i}": (8, width), f"f{i}": (8,), f"g{i}": (8,)}
        names = list(shapes)
        rng.shuffle(names)
        for name in names:
            self.register_parameter(name, nn.Parameter(torch.rand(shapes[name]) + 0.5))

    def forward(self, x: Tensor) -> Tensor:
        """Run all steps, b 8."""
        for i, (_, act) in enumerate(self.steps):
            a, b, c, d, e, f, g = (getattr(self, f"{letter}{i}") for letter in "abcdefg")
            hidden = act(F.linear(F.layer_norm(x, (8,), a, b), c, d))
            x = x + g * F.linear(hidden, e, f)
        return x


class Decoder(nn.Module):
    """A Llama-like decoder: grouped queries, rotary embedding, gated layers, RMS norm; projections apart."""

    def __init__(self, *, layers: int, width: int, heads: int, groups: int, hidden: int, vocabulary: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList(_Layer(width, heads, groups, hidden) for _ in range(layers))
        self.norm = nn.RMSNorm(width, eps=1e-5)
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits, b n v, of tokens, b n."""
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))  # type: ignore[no-any-return]


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int, groups: int, hidden: int) -> None:
        super().__init__()
        self.size = width // heads
        self.attention_norm, self.hidden_norm = nn.RMSNorm(width, eps=1e-5), nn.RMSNorm(width, eps=1e-5)
        self.q, self.o = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.k = nn.Linear(width, groups * self.size, bias=False)
        self.v = nn.Linear(width, groups * self.size, bias=False)
        self.gate, self.up = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.attention_norm(x)
        q, k, v = (_heads(layer(h), self.size) for layer in (self.q, self.k, self.v))
        x = x + self.o(_attention(q, k, v))
        h = self.hidden_norm(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))  # type: ignore[no-any-return]


class JoinedDecoder(nn.Module):
    """`Decoder` again, with other names: q, k and v in one projection, gate and up in another."""

    def __init__(self, *, layers: int, width: int, heads: int, groups: int, hidden: int, vocabulary: int) -> None:
        super().__init__()
        self.output = nn.Linear(width, vocabulary, bias=False)
        self.final = nn.RMSNorm(width, eps=1e-5)
        self.stack = nn.Sequential(*(_JoinedLayer(width, heads, groups, hidden) for _ in range(layers)))
        self.tokens = nn.Embedding(vocabulary, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits, b n v, of tokens, b n."""
        return self.output(self.final(self.stack(self.tokens(tokens))))  # type: ignore[no-any-return]


class _JoinedLayer(nn.Module):
    def __init__(self, width: int, heads: int, groups: int, hidden: int) -> None:
        super().__init__()
        self.size = width // heads
        self.splits = [width, groups * self.size, groups * self.size]
        self.fc2 = nn.Linear(hidden, width, bias=False)
        self.fc1 = nn.Linear(width, 2 * hidden, bias=False)
        self.proj = nn.Linear(width, width, bias=False)
        self.qkv = nn.Linear(width, sum(self.splits), bias=False)
        self.ln2, self.ln1 = nn.RMSNorm(width, eps=1e-5), nn.RMSNorm(width, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (_heads(part, self.size) for part in self.qkv(self.ln1(x)).split(self.splits, -1))
        x = x + self.proj(_attention(q, k, v))
        gate, up = self.fc1(self.ln2(x)).chunk(2, -1)
        return x + self.fc2(F.silu(gate) * up)  # type: ignore[no-any-return]


def _heads(x: Tensor, size: int) -> Tensor:
    return x.view(*x.shape[:-1], -1, size).transpose(1, 2)


def _attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend causally with rotary positions; queries share the keys of their group."""
    q, k = _rotated(q), _rotated(k)
    attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    return attended.transpose(1, 2).flatten(2)


def _rotated(x: Tensor) -> Tensor:
    length, size = x.shape[-2:]
    frequencies = 10000.0 ** (-torch.arange(0, size, 2, device=x.device) / size)
    angles = torch.arange(length, device=x.device)[:, None] * frequencies
    cos, sin = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin
