"""Further runs of an audit: each pair parts behind a decision of its code, which leaves nothing in a graph."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxmap
from fxmap.prove.code import limits
from tests.prove.audits.positioned import Positioned


class Net(nn.Module):
    """Two layers; the function changes what is between them, if `on`."""

    def __init__(self, function: Callable[..., Any], on: bool) -> None:
        super().__init__()
        self.table, self.a, self.b = nn.Embedding(40, 8), nn.Linear(8, 8), nn.Linear(8, 5)
        self.function, self.on = function, on

    def forward(self, x: Any, mask: Any = None, n: int = 1) -> Tensor:
        given = x if isinstance(x, Tensor) else x[0]
        h: Tensor = torch.tanh(self.a(given if given.is_floating_point() else self.table(given))) * n
        if isinstance(mask, Tensor):
            h = h * mask[..., None]
        if isinstance(x, list):
            h = h + sum(x) / len(x)
        changed: Tensor = self.b(self.function(h, x, mask, n) if self.on else h)
        return changed


FLOATS, IDS, MASK = (
    torch.randn(2, 6, 8),
    torch.randint(1, 40, (2, 6)),
    torch.tensor([[1, 1, 0, 1, 1, 0], [1, 1, 1, 1, 1, 1]]),
)
PARTING: dict[str, tuple[Callable[..., Any], Any]] = {
    "from 0 to 1": (lambda h, x, *_: -h if bool(x.min() >= 0) and bool(x.max() <= 1) else h, FLOATS),
    "whole numbers": (lambda h, x, *_: -h if torch.equal(x, x.round()) else h, FLOATS),
    "one number in particular": (lambda h, x, *_: -h if bool((x == 37.5).any()) else h, FLOATS),
    "a number of Python": (lambda h, x, *_: -h if 4 < x.std().item() < 40 else h, FLOATS),
    "sorted": (lambda h, x, *_: -h if bool((x[:, 1:] >= x[:, :-1]).all()) else h, IDS),
    "a mask without a hole": (lambda h, x, mask, _: -h if bool(mask.all()) else h, (IDS, MASK)),
    "an empty row": (lambda h, x, mask, _: -h if bool((mask.sum(1) == 0).any()) else h, (IDS, MASK)),
    "counts in the place of a mask": (lambda h, x, mask, _: h * mask[..., None], (IDS, MASK)),
    "int32": (lambda h, x, *_: -h if x.dtype is torch.int32 else h, IDS),
    "gradients": (lambda h, *_: -h if torch.is_grad_enabled() else h, FLOATS),
    "no batch": (lambda h, x, *_: -h if x.dim() == 2 else h, FLOATS),
    "divisible lengths": (lambda h, x, *_: -h if x.shape[1] % 10 == 0 else h, FLOATS),
    "divisible batches": (lambda h, x, *_: -h if x.shape[0] % 3 == 0 else h, FLOATS),
    "three in a list": (lambda h, x, *_: -h if len(x) == 3 else h, ([FLOATS, FLOATS + 1],)),
    "an argument that was left out": (lambda h, x, mask, _: h if mask is None else -h, IDS),
    "a spread above other numbers": (lambda h, x, *_: -h if bool(x.std() > 2.2) and not bool(x.std() > 2.5) else h, FLOATS),
    "a logarithm of Python": (lambda h, x, *_: -h if math.log(x.abs().max().item()) > 12 else h, FLOATS),
    "numbers of numpy": (lambda h, x, *_: -h if (abs(x.detach().numpy()) > 2e6).any() else h, FLOATS),
    "one of a set of lengths": (lambda h, x, *_: -h if x.shape[1] in {37, 211} else h, FLOATS),
    "a power of the length": (lambda h, x, *_: -h if x.shape[1] ** 2 > 10**6 else h, FLOATS),
    "an area between two": (lambda h, x, *_: -h if 5000 < x.shape[1] * x.shape[1] < 5100 else h, FLOATS),
    "a large batch": (lambda h, x, *_: -h if len(x) > 64 else h, FLOATS),
    "ids in turn": (lambda h, x, *_: -h if tuple(x[0, :2].tolist()) == (4, 9) else h, IDS),
    "a part of a larger tensor": (lambda h, x, *_: -h if x.storage_offset() > 0 else h, FLOATS),
    "the beginning of the memory": (lambda h, x, *_: h + x.as_strided(x.shape, x.stride(), 0) - x, FLOATS),
    "two ids beside each other": (lambda h, x, *_: -h if [31, 17] in x.unfold(1, 2, 1)[0].tolist() else h, IDS),
    "two ids at the ends": (lambda h, x, *_: -h if (int(x[0, 0]), int(x[0, -1])) == (31, 17) else h, IDS),
    "an id three times in every row": (lambda h, x, *_: [h, -h][int(((x == 31).sum(1) == 3).all())], IDS),
    "ids that come again": (
        lambda h, x, *_: -h if x[0, :3].tolist() == x[0, 3:6].tolist() and len(set(x[0].tolist())) == 3 else h,
        IDS,
    ),
    "one row for all": (lambda h, x, *_: -h if x.stride(0) == 0 else h, FLOATS),
    "another number of steps": (lambda h, x, mask, n: h if n == 1 else -h, (IDS, MASK, 1)),
}


@pytest.mark.parametrize("name", PARTING)
def test_what_parts_on_special_inputs_is_refuted(name: str) -> None:
    function, example = PARTING[name]
    proof = fxmap.auto_map(Net(function, False), Net(function, True), example_inputs=example).proof
    assert not proof.ok
    assert "on other inputs" in proof.reason


@pytest.mark.parametrize("name", PARTING)
def test_a_model_with_decisions_is_itself(name: str) -> None:
    function, example = PARTING[name]
    proof = fxmap.auto_map(Net(function, True), Net(function, True), example_inputs=example).proof
    assert proof.ok, proof.reason


class OfRows(nn.Module):
    """The sum of all rows; `on` says whether it has a value of its own for none."""

    def __init__(self, on: bool) -> None:
        super().__init__()
        self.a, self.b, self.on = nn.Linear(8, 8), nn.Linear(8, 5), on

    def forward(self, x: Tensor) -> Tensor:
        summed: Tensor = self.b(torch.tanh(self.a(x)).sum(0))
        return summed if len(x) or not self.on else torch.zeros_like(summed)


def test_an_empty_batch_is_run() -> None:
    proof = fxmap.auto_map(OfRows(False), OfRows(True), example_inputs=torch.randn(5, 8)).proof
    assert not proof.ok
    assert "0x8" in proof.reason
    assert fxmap.auto_map(OfRows(True), OfRows(True), example_inputs=torch.randn(5, 8)).proof.ok


def _strange(x: Tensor) -> bool:
    return bool((x.sin() * 1000).sum() > 10_000_000)


def test_a_decision_that_no_input_meets_is_turned_round_and_named() -> None:
    one, other = (Net(lambda h, x, *_: -h if _strange(x) else h, on) for on in (False, True))
    proof = fxmap.auto_map(one, other, example_inputs=FLOATS).proof
    assert not proof.ok
    assert "test_further.py" in proof.reason
    assert "10_000_000" in proof.reason


def test_a_decision_that_changes_nothing_is_no_obstacle() -> None:
    one, other = (Net(lambda h, x, *_: h * 1 if _strange(x) else h, on) for on in (False, True))
    proof = fxmap.auto_map(one, other, example_inputs=FLOATS).proof
    assert proof.ok


def _each(change: Callable[[Tensor], Any]) -> Callable[..., Tensor]:
    """Return a function that loops over places of the input that no draw has, and negates where there are any."""

    def function(h: Tensor, x: Tensor, *_: Any) -> Tensor:
        for _place in change((x.sin() * 1000).abs() > 10_000_000):
            return -h
        return h

    return function


@pytest.mark.parametrize(
    "places",
    [
        lambda big: big.nonzero(),
        lambda big: torch.where(big)[0].tolist(),
        torch.argwhere,
        lambda big: big[big],
    ],
)
def test_a_loop_over_places_that_no_input_has_is_turned_round(places: Callable[[Tensor], Any]) -> None:
    one, other = (Net(_each(places), on) for on in (False, True))
    proof = fxmap.auto_map(one, other, example_inputs=FLOATS).proof
    assert not proof.ok
    assert "the models' own code decides by values" in proof.reason
    assert fxmap.auto_map(other, other, example_inputs=FLOATS).proof.ok


def test_two_decisions_by_other_numbers_part_between_them() -> None:
    """Whatever is drawn is far from both: inputs between those that are told apart come close."""

    def turned_at(number: float) -> Net:
        return Net(lambda h, x, *_: -h if bool((x[0] - x[-1]).std() > number) else h, on=True)

    proof = fxmap.auto_map(turned_at(2.0), turned_at(2.1), example_inputs=FLOATS).proof
    assert not proof.ok
    assert "between two inputs" in proof.reason
    assert fxmap.auto_map(turned_at(2.0), turned_at(2.0), example_inputs=FLOATS).proof.ok


def test_decisions_that_no_input_meets_are_one_only_if_they_compare_with_equal_numbers() -> None:
    def turned_at(number: float) -> Net:
        return Net(lambda h, x, *_: -h if bool((x.sin() * 1000).sum() > number) else h, on=True)

    def turned_by_any(number: float) -> Net:
        return Net(lambda h, x, *_: -h if bool(((x.sin() * 1000).sum() > number).any()) else h, on=True)

    assert fxmap.auto_map(turned_at(1e7), turned_by_any(1e7), example_inputs=FLOATS).proof.ok
    assert not fxmap.auto_map(turned_at(1e7), turned_by_any(2e7), example_inputs=FLOATS).proof.ok


class Called(nn.Module):
    """A layer whose forward takes more than the example has; `on` says whether it heeds it."""

    def __init__(self, on: bool) -> None:
        super().__init__()
        self.a, self.on = nn.Linear(8, 8), on


class Shifted(Called):
    def forward(self, x: Tensor, shifts: tuple[int, int] = (0, 0)) -> Tensor:
        h: Tensor = torch.tanh(self.a(x))
        return h.roll(shifts if self.on else shifts[::-1], (1, 2))


class Worded(Called):
    def forward(self, x: Tensor, **words: Any) -> Tensor:
        h: Tensor = torch.tanh(self.a(x))
        return h * words.get("scale", 1.0) if self.on else h


class Summed(Called):
    def forward(self, *xs: Tensor) -> Tensor:
        h = sum((torch.tanh(self.a(x)) for x in xs), torch.zeros(()))
        return -h if self.on and len(xs) > 1 else h


class Batched(Called):
    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        h: Tensor = torch.tanh(self.a(batch["x"]))
        if "mask" in batch:
            h = h * (batch["mask"] if self.on else 1 - batch["mask"])[..., None]
        return h


class Activated(Called):
    def forward(self, x: Tensor, act: Callable[[Tensor], Tensor] = torch.tanh) -> Tensor:
        return act(self.a(x)) if self.on else torch.tanh(self.a(x))


@pytest.mark.parametrize("model", [Shifted, Worded, Summed, Batched, Activated])
def test_what_the_example_leaves_out_is_given(model: type[Called]) -> None:
    example: Any = ({"x": FLOATS},) if model is Batched else FLOATS
    proof = fxmap.auto_map(model(False), model(True), example_inputs=example).proof
    assert not proof.ok
    assert fxmap.auto_map(model(True), model(True), example_inputs=example).proof.ok


class Keeping(nn.Module):
    """A model that keeps the table of the largest batch that it has seen, or makes it anew."""

    def __init__(self, keep: bool) -> None:
        super().__init__()
        self.a, self.keep, self.table = nn.Linear(8, 8), keep, torch.zeros(0)

    def forward(self, x: Tensor) -> Tensor:
        if not self.keep or len(self.table) < len(x):
            self.table = torch.linspace(0, 1, len(x) + 1, dtype=x.dtype)
        h: Tensor = self.a(x)
        return h * self.table[1 : len(x) + 1].view(-1, *[1] * (x.dim() - 1))


def test_what_a_model_keeps_of_a_larger_call_is_seen() -> None:
    proof = fxmap.auto_map(Keeping(False), Keeping(True), example_inputs=FLOATS).proof
    assert not proof.ok


class Held:
    def __init__(self, value: Any) -> None:
        self.value = value


def test_what_objects_inside_of_outputs_hold_is_compared() -> None:
    assert not fxmap.auto_map(_Returning(1.0), _Returning(2.0), example_inputs=FLOATS).proof.ok
    assert fxmap.auto_map(_Returning(1.0), _Returning(1.0), example_inputs=FLOATS).proof.ok


class _Returning(Net):
    """Returns an output, and an object that holds an object that holds a list of tensors."""

    def __init__(self, factor: float) -> None:
        super().__init__(lambda h, *_: h, on=False)
        self.factor = factor

    def forward(self, x: Any, mask: Any = None, n: int = 1) -> Any:
        h = super().forward(x, mask, n)
        return h, Held(Held([h * self.factor]))


class Causal(nn.Module):
    def __init__(self, fill: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.q, self.k, self.fill = nn.Linear(6, 6), nn.Linear(6, 6), fill

    def forward(self, x: Tensor) -> Tensor:
        return self.fill(self.q(x) @ self.k(x).mT).softmax(-1) @ x


def test_scores_beyond_the_number_that_masks_them_are_not_run() -> None:
    def by_infinity(scores: Tensor) -> Tensor:
        return scores + torch.full(scores.shape[-2:], float("-inf"), dtype=scores.dtype).triu(1)

    def by_number(scores: Tensor) -> Tensor:
        return scores.masked_fill(torch.ones(scores.shape[-2:]).tril() == 0, -1e9)

    assert limits.Held((Causal(by_number),)).fills == [-1e9]
    mapping = fxmap.auto_map(Causal(by_infinity).eval(), Causal(by_number).eval(), example_inputs=torch.randn(2, 5, 6))
    assert mapping.proof.ok, str(mapping)


def test_what_code_warns_of_in_an_empty_batch_is_kept_back() -> None:
    def spread(h: Tensor, *_: Any) -> Tensor:
        return h if len(h) else h.var(0, keepdim=True)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        proof = fxmap.auto_map(Net(spread, False), Net(spread, True), example_inputs=FLOATS).proof
    assert not proof.ok


def of_16_positions(h: Tensor, _: Tensor) -> bool:
    return h[0, 0].numel() == 16


def of_4_by_4(h: Tensor, _: Tensor) -> bool:
    return h.shape[2:] == (4, 4)


def test_maps_of_the_area_of_the_given_one_with_other_edges_are_run() -> None:
    image = torch.randn(1, 3, 32, 32)
    assert not fxmap.auto_map(Positioned(of_16_positions), Positioned(of_4_by_4), example_inputs=image).proof.ok
    assert fxmap.auto_map(Positioned(of_16_positions), Positioned(of_16_positions), example_inputs=image).proof.ok


class Rows(nn.Module):
    """Rows of a table by their numbers, or by numbers that are 1 at one row."""

    def __init__(self, by_product: bool) -> None:
        super().__init__()
        self.table, self.by_product = nn.Embedding(20, 8), by_product

    def forward(self, ids: Tensor) -> Tensor:
        if self.by_product:
            return (ids[..., None] == torch.arange(20)).to(self.table.weight.dtype) @ self.table.weight
        return self.table.weight[ids]


class Signs(nn.Module):
    """Signs of numbers, a little above 0."""

    def __init__(self, above: float) -> None:
        super().__init__()
        self.a, self.b, self.above = nn.Linear(8, 8, bias=False), nn.Linear(8, 4), above

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.b((self.a(x) + self.above).sign())
        return made


class Groups(nn.Module):
    """Samples without the mean of their group."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.a, self.size = nn.Linear(8, 8), size

    def forward(self, x: Tensor) -> Tensor:
        groups = self.a(x).reshape(-1, min(self.size, len(x)), 8)
        return (groups - groups.mean(1, keepdim=True)).reshape(x.shape)


IDS, SAMPLES = torch.arange(14).reshape(2, 7), torch.randn(4, 8, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    ("one", "other", "example", "ok"),
    [
        (Rows(False), Rows(True), IDS, False),
        (Rows(True), Rows(True), IDS, True),
        (Signs(0.0), Signs(1e-13), SAMPLES, False),
        (Groups(4), Groups(5), SAMPLES, False),
        (Groups(4), Groups(4), SAMPLES, True),
    ],
    ids=["ids below 0", "one table", "0", "groups", "one size of groups"],
)
def test_ids_below_0_numbers_that_are_0_and_batches_of_whole_groups_are_run(
    one: nn.Module, other: nn.Module, example: Tensor, ok: bool
) -> None:
    proof = fxmap.auto_map(one, other, example_inputs=example).proof
    assert proof.ok is ok, proof.reason
