"""Weights are found where values are in another order, scaled by a constant, a term of a sum, or not affine in them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxmap
from fxmap.testing.planted import randomised

State = dict[str, Tensor]


class Gated(nn.Module):
    """A cell: its gates apart or joined, in two orders, of `[x, h]` or of each alone."""

    def __init__(self, joined: bool) -> None:
        super().__init__()
        self.joined = joined
        self.own = nn.Linear(5, 12) if joined else nn.Linear(2, 12)
        if not joined:
            self.back = nn.Linear(3, 12, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(len(x), 3)
        for step in x.unbind(1):
            if self.joined:
                i, f, o, g = self.own(torch.cat([step, h], 1)).chunk(4, 1)
                c = f.sigmoid() * c + i.sigmoid() * g.tanh()
                h = o.sigmoid() * c.tanh()
            else:
                y = self.own(step) + self.back(h)
                z = torch.sigmoid(y[:, :9])
                c = z[:, 3:6] * c + z[:, 6:] * torch.tanh(y[:, 9:])
                h = z[:, :3] * torch.tanh(c)
        return h


def gated(state: State) -> State:
    def moved(value: Tensor) -> Tensor:
        return torch.cat([value.chunk(4)[gate] for gate in (2, 1, 0, 3)])

    weight, bias = moved(state["own.weight"]), moved(state["own.bias"])
    return {"own.weight": weight[:, :2], "own.bias": bias, "back.weight": weight[:, 2:]}


class Trees(nn.Module):
    """Soft trees: thresholds are subtracted, of one number for each tree and level; or a bias is added, level by level."""

    def __init__(self, flat: bool) -> None:
        super().__init__()
        self.flat = flat
        self.split = nn.Linear(6, 10) if flat else nn.Parameter(torch.ones(6, 5, 2))
        self.leaves = nn.Linear(20, 3, bias=False) if flat else nn.Parameter(torch.ones(5, 4, 3))
        if not flat:
            self.threshold = nn.Parameter(torch.ones(5, 2))

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.split, nn.Linear) and isinstance(self.leaves, nn.Linear):
            a, b = torch.sigmoid(self.split(x)).chunk(2, 1)
            made: Tensor = self.leaves(torch.stack([(1 - a) * (1 - b), (1 - a) * b, a * (1 - b), a * b], 2).flatten(1))
            return made
        gates = torch.sigmoid(torch.einsum("bf,ftd->btd", x, self.split) - self.threshold)
        gates = torch.stack([gates, 1 - gates], -1)
        reached = torch.einsum("bti,btj->btij", gates[:, :, 0], gates[:, :, 1]).flatten(2)
        return torch.einsum("btl,tlo->bo", reached, self.leaves)


def trees(state: State) -> State:
    return {
        "split.weight": state["split"].permute(2, 1, 0).reshape(10, 6),
        "split.bias": -state["threshold"].t().reshape(-1),
        "leaves.weight": state["leaves"].flip(1).reshape(20, 3).t(),
    }


class Looked(nn.Module):
    """An embedding that is scaled before a norm, whose gain is one more than its weight; or the two folded in."""

    def __init__(self, folded: bool) -> None:
        super().__init__()
        self.table, self.gain, self.last = nn.Embedding(9, 4), nn.Parameter(torch.ones(4)), nn.Linear(4, 3)
        self.folded = folded

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids) if self.folded else self.table(ids) * 4**0.5
        y = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
        made: Tensor = self.last(x + (y * self.gain if self.folded else y * (1 + self.gain)).tanh())
        return made


def looked(state: State) -> State:
    return {**state, "table.weight": state["table.weight"] * 2, "gain": state["gain"] + 1}


class Normed(nn.Module):
    """A layer and its batch norm, channels last and by hand, or by modules."""

    def __init__(self, by_hand: bool) -> None:
        super().__init__()
        self.by_hand, self.layer, self.last = by_hand, nn.Conv1d(3, 4, 1, bias=False), nn.Linear(4, 2)
        if by_hand:
            self.gain, self.shift = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(4))
            self.mean, self.spread = nn.Buffer(torch.zeros(4)), nn.Buffer(torch.ones(4))
        else:
            self.norm = nn.BatchNorm1d(4, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x.mT)
        if self.by_hand:
            y = y.mT
            y = torch.relu((y - self.mean) * torch.rsqrt(self.spread + 1e-3) * self.gain + self.shift)
            made: Tensor = self.last(y.amax(1))
            return made
        made = self.last(torch.relu(self.norm(y)).amax(2))
        return made


def normed(state: State) -> State:
    own = {key: value for key, value in state.items() if "la" in key}
    names = {"weight": "gain", "bias": "shift", "running_mean": "mean", "running_var": "spread"}
    return {**own, **{f"norm.{name}": state[ours] for name, ours in names.items()}}


class Scored(nn.Module):
    """Scores of pairs from both ends: of the pairs that are asked for, or of all."""

    def __init__(self, dense: bool) -> None:
        super().__init__()
        self.dense, self.layer, self.last = dense, nn.Linear(3, 4, bias=False), nn.Linear(4, 2)
        self.ends: Any = nn.Parameter(torch.ones(8)) if dense else nn.ParameterList(torch.ones(4) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        h = self.layer(x)
        if self.dense:
            scores = (h @ self.ends[:4])[:, None] + (h @ self.ends[4:])[None]
            weights = torch.tanh(scores) * torch.eye(len(x), dtype=x.dtype).roll(1, 1)
            made: Tensor = self.last(weights @ h)
            return made
        near = h.roll(-1, 0)
        scores = (h * self.ends[0]).sum(-1) + (near * self.ends[1]).sum(-1)
        made = self.last(torch.tanh(scores)[:, None] * near)
        return made


def scored(state: State) -> State:
    own = {key: value for key, value in state.items() if "ends" not in key}
    return {**own, "ends": torch.cat([state["ends.0"], state["ends.1"]])}


PAIRS: dict[str, tuple[nn.Module, nn.Module, Tensor, Callable[[State], State]]] = {
    "gates in another order": (Gated(True), Gated(False), torch.randn(2, 2, 2), gated),
    "groups and channels in another order": (Trees(False), Trees(True), torch.randn(4, 6), trees),
    "a constant times a table": (Looked(False), Looked(True), torch.randint(0, 9, (2, 6)), looked),
    "a variance by hand": (Normed(True), Normed(False), torch.randn(2, 5, 3), normed),
    "one term of a sum": (Scored(False), Scored(True), torch.randn(5, 3), scored),
}


@pytest.mark.parametrize("name", PAIRS)
def test_every_key_is_the_one_that_makes_both_functions_equal(name: str) -> None:
    src, dst, x, truth = PAIRS[name]
    src = randomised(src, 0)
    mapping = fxmap.auto_map(src, dst, example_inputs=x)
    made, right = mapping.apply(src.state_dict()), truth(src.state_dict())
    assert set(right) <= set(made)
    for key, value in right.items():
        torch.testing.assert_close(made[key], value, rtol=1e-5, atol=1e-6)
