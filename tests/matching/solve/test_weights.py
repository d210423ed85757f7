"""Weights are solved for, and recognised, between spellings that no rule knows."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxmap
from fxmap.testing.planted import randomised

State = dict[str, Tensor]


class Adapted(nn.Module):
    """A linear layer with a low-rank update beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.a, self.b = nn.Linear(6, 8), nn.Parameter(torch.ones(2, 6)), nn.Parameter(torch.ones(8, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + 2 * (x @ self.a.t()) @ self.b.t()


class Unfolded(nn.Module):
    """A convolution as a product with patches."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.shift = nn.Parameter(torch.ones(4, 27)), nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        patches = F.unfold(x, 3)
        return (self.kernel @ patches + self.shift[:, None]).view(len(x), 4, x.shape[2] - 2, x.shape[3] - 2)


class OneHot(nn.Module):
    """A lookup as a product with one-hot rows."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Linear(7, 4, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.table(F.one_hot(ids, 7).to(self.table.weight.dtype))


class Standardised(nn.Module):
    """A linear layer whose weight is standardised before it is used."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.layer.weight
        weight = (weight - weight.mean(1, keepdim=True)) / weight.std(1, keepdim=True)
        return F.linear(x, weight, self.layer.bias)


def adapted(state: State) -> State:
    return {"0.weight": state["0.base.weight"] + 2 * state["0.b"] @ state["0.a"], "0.bias": state["0.base.bias"]}


def standardised(state: State) -> State:
    weight = state["0.layer.weight"]
    weight = (weight - weight.mean(1, keepdim=True)) / weight.std(1, keepdim=True)
    return {"0.weight": weight, "0.bias": state["0.layer.bias"]}


def before_tanh(layer: nn.Module) -> nn.Module:
    return nn.Sequential(layer, nn.Tanh())


class Normed(nn.Module):
    """A norm before a layer with a bias: the layer's inputs depend on one another, so that it has many equal forms."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.kernel, self.shift = (nn.Parameter(torch.ones(n, 6)) for n in (2, 6, 1))

    def forward(self, x: Tensor) -> Tensor:
        deviation = torch.sqrt((x * x).mean(-1, keepdim=True) - x.mean(-1, keepdim=True) ** 2 + 1e-5)
        return (self.both[0] * (x - x.mean(-1, keepdim=True)) / deviation + self.both[1]) @ self.kernel + self.shift


class Shuffled(nn.Module):
    """A convolution before positions that its channels become, in one of two orders."""

    def __init__(self, by_hand: bool) -> None:
        super().__init__()
        self.wide, self.last, self.by_hand = nn.Conv2d(2, 8, 1), nn.Conv2d(2, 3, 1), by_hand

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.wide(x))
        if not self.by_hand:
            return self.last(F.pixel_shuffle(x, 2))
        b, _, h, w = x.shape
        return self.last(x.view(b, 2, 2, 2, h, w).permute(0, 3, 4, 1, 5, 2).reshape(b, 2, 2 * h, 2 * w))


def shuffled(state: State) -> State:
    made = {key: value.view(2, 2, 2, -1).movedim(0, 2).reshape(value.shape) for key, value in state.items() if "wide" in key}
    return {**state, **made}


class Recurrent(nn.Module):
    """The last state of a recurrent layer, or the same with one matrix on inputs and state, and one bias."""

    def __init__(self, joined: bool) -> None:
        super().__init__()
        self.layer: nn.Module = nn.Linear(7, 4) if joined else nn.RNN(3, 4, batch_first=True)
        self.joined = joined

    def forward(self, x: Tensor) -> Tensor:
        if not self.joined:
            return self.layer(x)[0][:, -1]
        h = x.new_zeros(len(x), 4)
        for t in range(x.shape[1]):
            h = torch.tanh(self.layer(torch.cat([x[:, t], h], -1)))
        return h


def joined(state: State) -> State:
    own = {key.removeprefix("0.layer."): value for key, value in state.items()}
    return {
        "0.layer.weight": torch.cat([own["weight_ih_l0"], own["weight_hh_l0"]], 1),
        "0.layer.bias": own["bias_ih_l0"] + own["bias_hh_l0"],
    }


class Members(nn.Module):
    """The mean of an ensemble, whose biases are added up before anything else reads them."""

    def __init__(self) -> None:
        super().__init__()
        self.members = nn.ModuleList(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([member(x) for member in self.members]).mean(0)


class Stacked(nn.Module):
    """The same with stacked weights."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(torch.ones(3, 3, 4)), nn.Parameter(torch.ones(3, 1, 4))
        self.v, self.c = nn.Parameter(torch.ones(3, 4, 2)), nn.Parameter(torch.ones(3, 1, 2))

    def forward(self, x: Tensor) -> Tensor:
        return (torch.tanh(x @ self.w + self.b) @ self.v + self.c).mean(0)


def stacked(state: State) -> State:
    def every(name: str) -> Tensor:
        return torch.stack([state[f"0.members.{i}.{name}"] for i in range(3)])

    layers = {"0.w": every("0.weight").mT, "0.v": every("2.weight").mT}
    return {**layers, "0.b": every("0.bias")[:, None], "0.c": every("2.bias")[:, None]}


class Placed(nn.Module):
    """A layer and a table of positions, added up: a bias and rows that are multiplied by the same."""

    def __init__(self, looked: bool) -> None:
        super().__init__()
        self.z, self.looked = nn.Linear(3, 4), looked
        self.a: Any = nn.Embedding(5, 4) if looked else nn.Parameter(torch.ones(5, 4))
        self.last: Any = nn.Parameter(torch.ones(5, 3)) if looked else nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.z(x) + (self.a(torch.arange(5)) if self.looked else self.a)
        return torch.cat([y, torch.ones_like(y[..., :1])], -1) @ self.last if self.looked else self.last(y)


def placed(state: State) -> State:
    last = torch.cat([state["0.last.weight"].t(), state["0.last.bias"][None]])
    own = {key: state[key] for key in ("0.z.weight", "0.z.bias")}
    return {**own, "0.a.weight": state["0.a"], "0.last": last}


class Dead(nn.Module):
    """A table behind a ReLU that hardly any input reaches: what it is added to never varies."""

    def __init__(self, stacked: bool) -> None:
        super().__init__()
        self.first, self.stacked = nn.Linear(3, 4), stacked
        self.table = nn.Parameter(torch.ones(5, 4))
        self.last = nn.ModuleList(nn.Linear(4, 2) for _ in range(1 if stacked else 2))
        if stacked:
            self.last = nn.ModuleList([nn.Conv1d(4, 4, 1)])

    def forward(self, x: Tensor) -> Tensor:
        low = torch.tensor([0.0, 0.0, 0.0, 100.0], dtype=x.dtype)
        y = F.relu(self.first(x) - low) + self.table
        if self.stacked:
            return self.last[0](y.transpose(1, 2)).transpose(1, 2)
        return torch.cat([layer(y) for layer in self.last], -1)


def dead(state: State) -> State:
    whole = {name: torch.cat([state[f"0.last.{i}.{name}"] for i in (0, 1)]) for name in ("weight", "bias")}
    own = {key: value for key, value in state.items() if "last" not in key}
    return {**own, "0.last.0.weight": whole["weight"][..., None], "0.last.0.bias": whole["bias"]}


class Scaled(nn.Module):
    """A branch with a scale behind it, beside its input; or with the scale in its last layer, and a norm by hand."""

    def __init__(self, folded: bool) -> None:
        super().__init__()
        self.first, self.last, self.folded = nn.Conv1d(4, 4, 3, padding=1), nn.Linear(4, 4), folded
        self.scale = nn.Parameter(torch.ones(4))
        if folded:
            del self.scale

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        if not self.folded:
            y = F.layer_norm(y.mT, (4,), eps=1e-5)
            return x + (self.scale * self.last(F.gelu(y))).mT
        y = y - y.mean(1, keepdim=True)
        y = y / (y.pow(2).mean(1, keepdim=True) + 1e-5).sqrt()
        return self.last(F.gelu(y.mT)).mT + x


def scaled(state: State) -> State:
    scale = state["0.scale"]
    own = {key: state[key] for key in ("0.first.weight", "0.first.bias")}
    return {**own, "0.last.weight": state["0.last.weight"] * scale[:, None], "0.last.bias": state["0.last.bias"] * scale}


class Fused(nn.Module):
    """Two maps added up with weights that a ReLU keeps positive: in one tensor, or in two of one number each."""

    def __init__(self, apart: bool) -> None:
        super().__init__()
        self.one, self.other, self.apart = nn.Linear(3, 4), nn.Linear(3, 4), apart
        shapes: list[tuple[int, ...]] = [(), ()] if apart else [(2,)]
        self.shares = nn.ParameterList(nn.Parameter(torch.ones(shape)) for shape in shapes)

    def forward(self, x: Tensor) -> Tensor:
        if self.apart:
            a, b = self.shares[0].relu(), self.shares[1].relu()
        else:
            a, b = F.relu(self.shares[0])
        return (self.one(x) * a + self.other(x.flip(-1)) * b) / (a + b + 1e-4)


def fused(state: State) -> State:
    own = {key: value for key, value in state.items() if "shares" not in key}
    return {**own, "0.shares.0": state["0.shares.0"][0], "0.shares.1": state["0.shares.0"][1]}


class Glued(nn.Module):
    """A gated layer before a depthwise one with a norm behind it, which is folded: its input is one part of two."""

    def __init__(self, folded: bool) -> None:
        super().__init__()
        self.wide, self.deep, self.folded = nn.Linear(4, 8), nn.Conv1d(4, 4, 3, groups=4, bias=folded), folded
        self.norm = nn.Identity() if folded else nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.wide(x).chunk(2, -1)
        if not self.folded:
            return self.norm(self.deep((a * b.sigmoid()).mT))
        y = torch.nn.functional.conv2d((a * torch.sigmoid(b)).mT[:, :, None], self.deep.weight[:, :, None], groups=4)
        assert self.deep.bias is not None
        return y[:, :, 0] + self.deep.bias[:, None]


def glued(state: State) -> State:
    gain = state["0.norm.weight"] / (state["0.norm.running_var"] + 1e-5).sqrt()
    own = {key: state[key] for key in ("0.wide.weight", "0.wide.bias")}
    bias = state["0.norm.bias"] - state["0.norm.running_mean"] * gain
    return {**own, "0.deep.weight": state["0.deep.weight"] * gain[:, None, None], "0.deep.bias": bias}


PAIRS: dict[str, tuple[nn.Module, nn.Module, Tensor, Callable[[State], State]]] = {
    "a low-rank update merged": (Adapted(), nn.Linear(6, 8), torch.randn(3, 6), adapted),
    "a convolution as a product": (
        nn.Conv2d(3, 4, 3),
        Unfolded(),
        torch.randn(2, 3, 6, 5),
        lambda state: {"0.kernel": state["0.weight"].flatten(1), "0.shift": state["0.bias"]},
    ),
    "a lookup as a product": (
        nn.Embedding(7, 4),
        OneHot(),
        torch.tensor([[0, 6, 3]]),
        lambda state: {"0.table.weight": state["0.weight"].t()},
    ),
    "a layer behind a norm by hand": (
        nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 6)),
        Normed(),
        torch.randn(3, 6),
        lambda state: {
            "0.both": torch.stack([state["0.0.weight"], state["0.0.bias"]]),
            "0.kernel": state["0.1.weight"].t(),
            "0.shift": state["0.1.bias"][None],
        },
    ),
    "channels in another order": (Shuffled(False), Shuffled(True), torch.randn(2, 2, 3, 4), shuffled),
    "one matrix for inputs and state": (Recurrent(False), Recurrent(True), torch.randn(2, 3, 3), joined),
    "an ensemble stacked": (Members(), Stacked(), torch.randn(5, 3), stacked),
    "a table beside a bias": (Placed(False), Placed(True), torch.randn(2, 5, 3), placed),
    "a table behind a ReLU that is never reached": (Dead(False), Dead(True), torch.randn(2, 5, 3), dead),
    "a scale folded beside a residual": (Scaled(False), Scaled(True), torch.randn(2, 4, 6), scaled),
    "weights of one number each": (Fused(False), Fused(True), torch.randn(4, 3), fused),
    "a norm folded behind a gate": (Glued(False), Glued(True), torch.randn(2, 6, 4), glued),
    "a standardised weight": (Standardised(), nn.Linear(6, 4), torch.randn(3, 6), standardised),
}


@pytest.mark.parametrize("name", PAIRS)
def test_every_key_is_the_one_that_makes_both_functions_equal(name: str) -> None:
    src, dst, x, truth = PAIRS[name]
    src, dst = randomised(before_tanh(src), 0), before_tanh(dst)
    mapping = fxmap.auto_map(src, dst, example_inputs=x)
    made, right = mapping.apply(src.state_dict()), truth(src.state_dict())
    assert made.keys() == right.keys()
    for key, value in right.items():
        torch.testing.assert_close(made[key], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["a low-rank update merged", "a standardised weight"])
def test_an_effective_weight_is_written_and_read_as_json_and_as_python(name: str) -> None:
    src, dst, x, _ = PAIRS[name]
    src, dst = randomised(before_tanh(src), 0), before_tanh(dst)
    mapping = fxmap.auto_map(src, dst, example_inputs=x)
    state = src.state_dict()
    made = mapping.apply(state)
    again = fxmap.KeyMapping.from_json(mapping.to_json()).apply(state)
    namespace: dict[str, Any] = {}
    exec(mapping.to_python(), namespace)
    printed = namespace["convert"](state)
    for key, value in made.items():
        assert torch.equal(again[key], value)
        assert torch.equal(printed[key], value)


class Homogeneous(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.ones(7, 6))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, torch.ones_like(x[..., :1])], -1) @ self.matrix


def test_a_difference_that_an_activation_seems_to_explain_is_solved_where_both_models_have_it() -> None:
    src = randomised(nn.Sequential(nn.Linear(6, 6), nn.Tanh(), Homogeneous()), 0)
    dst = nn.Sequential(Homogeneous(), nn.Tanh(), nn.Linear(6, 6))
    mapping = fxmap.auto_map(src, dst, example_inputs=torch.randn(3, 4, 6))
    assert mapping.proof.ok, mapping.proof
    assert set(mapping["0.matrix"].sources()) == {"0.weight", "0.bias"}


def test_networks_that_compute_something_else_stay_different() -> None:
    src = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))
    dst = nn.Sequential(nn.Linear(6, 8), nn.Sigmoid(), nn.Linear(8, 2))
    mapping = fxmap.auto_map(src, dst, example_inputs=torch.randn(3, 6))
    assert not mapping.proof.ok


def test_a_program_of_other_operations_than_those_of_aten_is_refused() -> None:
    from fxmap.expressions.programs import run_program

    with pytest.raises(ValueError, match="aten alone"):
        run_program([torch.ones(1)], '[["prims.sin.default", [{"value": 0}], {}]]')


class Positions(nn.Module):
    """Rows that are added at each position: of a table that is longer than what is read of it, or as they are."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.words, self.place, self.last = nn.Embedding(20, 8), nn.Embedding(rows, 8), nn.Linear(8, 3)

    def forward(self, ids: Tensor) -> Tensor:
        made: Tensor = self.last(torch.tanh(self.words(ids) + self.place.weight[:5]))
        return made


class MixedPositions(Positions):
    """The same, with rows that a layer makes."""

    def __init__(self, rows: int) -> None:
        super().__init__(rows)
        self.mix = nn.Linear(8, 8, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        made: Tensor = self.last(torch.tanh(self.words(ids) + self.mix(self.place.weight[:5])))
        return made


def test_a_search_over_a_long_table_ends_and_says_what_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    from fxmap.matching.solve import weights
    from fxmap.matching.solve.runs import effort

    counted, made, grad, spend = [0.0], [0], torch.autograd.grad, effort.Effort.spend

    def counting(self: Any, *, runs: float = 0, numbers: float = 0) -> None:
        counted[0] += numbers
        spend(self, runs=runs, numbers=numbers)

    def differentiated(goal: Any, leaves: Any, *args: Any, **kwargs: Any) -> Any:
        made[0] += sum(leaf.numel() for leaf in ([leaves] if isinstance(leaves, Tensor) else leaves))
        return grad(goal, leaves, *args, **kwargs)

    monkeypatch.setattr(effort.Effort, "spend", counting)
    monkeypatch.setattr(torch.autograd, "grad", differentiated)
    monkeypatch.setattr(weights, "MOST", 0.5)
    src, dst = randomised(MixedPositions(5), 0), randomised(Positions(2000), 1)
    mapping = fxmap.auto_map(src, dst, example_inputs=torch.randint(0, 20, (2, 5)))
    assert made[0] > 0
    assert counted[0] >= made[0]
    assert not mapping.ok
    assert mapping.missing == ["place.weight"]
