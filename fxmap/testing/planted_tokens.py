"""Random networks over tokens, built from one set of weights in different styles: what a mapping must give is known."""

import random
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH, HEADS, VALUES = 8, 2, 11


@dataclass(frozen=True)
class Style:
    """How a network writes its weights down: joined or not and in which order, `i o` or `o i`, and under which names."""

    seed: int

    def choose(self, what: str, block: int, choices: int) -> int:
        """Draw one of so many ways to write a block down."""
        return random.Random(f"{self.seed} {what} {block}").randrange(choices)

    def order(self, what: str, block: int, count: int) -> list[int]:
        """Draw the order of parts in a joined weight."""
        order = list(range(count))
        random.Random(f"{self.seed} order {what} {block}").shuffle(order)
        return order


def specification(seed: int) -> list[str]:
    """Draw the kinds of the blocks; "again" calls the block before once more."""
    rng = random.Random(seed)
    kinds = [rng.choice(["attention", "gated", "branches"])]
    while len(kinds) < 3:
        kinds.append(rng.choice(["attention", "gated", "branches", "again"]))
    return kinds


def weights(kinds: list[str], seed: int) -> dict[str, Tensor]:
    """Draw the weights of every block, by role, `o i`."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * 0.5

    roles = {"attention": "qkvo", "gated": "gud", "branches": "abo"}
    found = {"embed": draw(VALUES, WIDTH)}
    for index, kind in enumerate(kinds):
        for role in roles.get(kind, ""):
            found[f"{index}.{role}"], found[f"{index}.{role} bias"] = draw(WIDTH, WIDTH), draw(WIDTH)
        if kind != "again":
            found[f"{index}.norm"], found[f"{index}.norm bias"] = draw(WIDTH) + 1, draw(WIDTH)
    return found


class Tokens(nn.Module):
    """The network of a specification in one style. The output layer is tied to the embedding."""

    def __init__(self, kinds: list[str], style: Style, values: dict[str, Tensor]) -> None:
        super().__init__()
        self.kinds, self.style = kinds, style
        entries: dict[str, Tensor] = {"embed": values["embed"]}
        for index, kind in enumerate(kinds):
            joined = {"attention": "qkv", "gated": "gu"}.get(kind, "")
            roles = [role.partition(".")[2] for role in values if role.startswith(f"{index}.") and "bias" not in role]
            if joined and style.choose("joined", index, 2):
                order = [joined[i] for i in style.order("joined", index, len(joined))]
                entries[f"{index}.joined"] = torch.cat([values[f"{index}.{role}"] for role in order])
                entries[f"{index}.joined bias"] = torch.cat([values[f"{index}.{role} bias"] for role in order])
                roles = [role for role in roles if role not in joined]
            for role in roles:
                entries[f"{index}.{role}"] = values[f"{index}.{role}"]
                entries[f"{index}.{role} bias"] = values[f"{index}.{role} bias"]
        self.names = {entry: f"p{style.seed}_{i}" for i, entry in enumerate(entries)}
        order = list(entries)
        random.Random(style.seed).shuffle(order)
        for entry in order:
            value = entries[entry]
            if self._inputs_first(entry) and value.dim() == 2:
                value = value.t()
            self.register_parameter(self.names[entry], nn.Parameter(value.clone().contiguous()))

    def _inputs_first(self, entry: str) -> bool:
        index, _, role = entry.partition(".")
        return bool(role) and self.style.choose(f"axes {role}", int(index), 3) == 0

    def _get(self, entry: str) -> Tensor:
        value: Tensor = getattr(self, self.names[entry])
        return value

    def _linear(self, x: Tensor, entry: str) -> Tensor:
        weight, bias = self._get(entry), self._get(f"{entry} bias")
        if self._inputs_first(entry):
            return torch.addmm(bias, x.flatten(0, 1), weight).view(*x.shape[:2], -1)
        return F.linear(x, weight, bias)

    def _parts(self, x: Tensor, index: int, roles: str) -> list[Tensor]:
        if f"{index}.joined" not in self.names:
            return [self._linear(x, f"{index}.{role}") for role in roles]
        parts = torch.split(self._linear(x, f"{index}.joined"), WIDTH, -1)
        order = self.style.order("joined", index, len(roles))
        return [parts[order.index(i)] for i in range(len(roles))]

    def _block(self, x: Tensor, index: int) -> Tensor:
        kind = self.kinds[index]
        if kind == "again":
            return self._block(x, index - 1)
        y = F.layer_norm(x, (WIDTH,), self._get(f"{index}.norm"), self._get(f"{index}.norm bias"))
        if kind == "attention":
            q, k, v = (torch.unflatten(p, -1, (HEADS, -1)).transpose(1, 2) for p in self._parts(y, index, "qkv"))
            y = ((q @ k.transpose(-2, -1) / 2).softmax(-1) @ v).transpose(1, 2).flatten(2)
            return x + self._linear(y, f"{index}.o")
        if kind == "gated":
            gate, up = self._parts(y, index, "gu")
            return x + self._linear(F.silu(gate) * up, f"{index}.d")
        both = torch.cat((torch.tanh(self._linear(y, f"{index}.a")), torch.sigmoid(self._linear(y, f"{index}.b"))), -1)
        return x + self._linear(both[..., :WIDTH] - 2 * both[..., WIDTH:], f"{index}.o")

    def forward(self, ids: Tensor) -> Tensor:
        if ids.shape[1] < 2:  # keeps symbolic tracing out
            raise ValueError("too short")
        x = F.embedding(ids, self._get("embed"))
        for index in range(len(self.kinds)):
            x = self._block(x, index)
        return F.linear(x, self._get("embed"))
