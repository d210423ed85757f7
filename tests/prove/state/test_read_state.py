"""Integers that code reads as numbers of Python: both models have to make the same of other values."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxmap
from fxmap import Status
from fxmap.prove.state.other_integers import apart, integers_like

Function = Callable[[Tensor, Any], Tensor]


class Net(nn.Module):
    """Two layers with a function between them, which reads a buffer."""

    def __init__(self, function: Function, value: Tensor) -> None:
        super().__init__()
        self.a, self.h, self.function = nn.Linear(8, 8), nn.Linear(8, 4), function
        self.register_buffer("s", value.clone())

    def forward(self, x: Tensor) -> Any:
        return self.h(self.function(torch.tanh(self.a(x)), self))


def _window(h: Tensor, m: Any) -> Tensor:
    low, high = int(m.s[0]), int(m.s[1])
    return F.pad(h[..., low:high], (0, 8 - high + low))


def _same(h: Tensor, _: Any) -> Tensor:
    return h


READ: dict[str, tuple[Function, Function, Tensor]] = {
    "a permutation as a list": (lambda h, m: h[..., m.s.tolist()], _same, torch.arange(8)),
    "a window": (_window, _same, torch.tensor([0, 8])),
    "a pointer": (lambda h, m: h + torch.arange(4).to(h)[int(m.s) % 4], _same, torch.zeros(1, dtype=torch.long)),
    "a count beyond a number": (_same, lambda h, m: h if int(m.s) < 1000 else 3 * h, torch.tensor(0)),
    "a switch": (lambda h, m: h if bool(m.s) else -h, _same, torch.tensor(True)),
    "a list against arange": (
        lambda h, m: h.index_select(-1, m.s), lambda h, _: h.index_select(-1, torch.arange(8)), torch.arange(8)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_a_buffer_that_one_model_alone_reads_in_python_refutes_the_proof(name: str) -> None:
    one, other, value = READ[name]
    mapping = fxmap.auto_map(Net(one, value).eval(), Net(other, value).eval(), example_inputs=torch.randn(2, 6, 8))
    assert not mapping.proof.ok
    assert mapping.proof.reason.startswith("s: ") or name == "a switch"
    assert mapping.status("s") in (Status.MATCHED, Status.KEPT)


@pytest.mark.parametrize("name", ["a permutation as a list", "a window", "a switch"])
def test_a_buffer_that_both_models_read_in_python_is_proven(name: str) -> None:
    function, _, value = READ[name]
    mapping = fxmap.auto_map(Net(function, value).eval(), Net(function, value).eval(), example_inputs=torch.randn(2, 6, 8))
    assert mapping.proof.ok, mapping.proof
    assert mapping.status("s") is Status.PROVEN


def test_a_number_that_the_destination_alone_ignores_refutes_the_proof() -> None:
    def norm(h: Tensor, m: Any) -> Tensor:
        return F.normalize(h * m.s, dim=-1)

    pair = Net(norm, torch.ones(1)).eval(), Net(lambda h, _: F.normalize(h, dim=-1), torch.ones(1)).eval()
    assert not fxmap.auto_map(*pair, example_inputs=torch.randn(2, 8)).proof.ok


def test_counters_that_no_code_reads_stay_inert() -> None:
    src, dst = (nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)).eval() for _ in range(2))
    mapping = fxmap.auto_map(src, dst, example_inputs=torch.randn(4, 8))
    assert mapping.proof.ok
    assert mapping.status("1.num_batches_tracked") is Status.INERT


@pytest.mark.parametrize(
    "value", [torch.tensor([0, 8]), torch.tensor(3), torch.tensor([True, True]), torch.zeros(2, 2).int()]
)
def test_other_values_of_integers_have_their_dtype_and_shape_and_differ(value: Tensor) -> None:
    found = integers_like(value, [1000.0, 0.5])
    assert len(found) > 1
    for other in found:
        assert other.dtype is value.dtype
        assert other.shape == value.shape
        assert not torch.equal(other, value)
    assert value.numel() > 1 or any(int(other) == 1000 for other in found)


class Several(nn.Module):
    """Two layers with a function between them, which reads two buffers."""

    def __init__(self, function: Function, one: Tensor, other: Tensor) -> None:
        super().__init__()
        self.a, self.h, self.function = nn.Linear(8, 8), nn.Linear(8, 4), function
        self.register_buffer("one", one.clone())
        self.register_buffer("other", other.clone())

    def forward(self, x: Tensor) -> Any:
        return self.h(self.function(torch.tanh(self.a(x)), self))


SEVERAL: dict[str, tuple[Function, Function, Tensor]] = {
    "composed": (
        lambda h, m: h[..., m.one[m.other]],
        lambda h, m: h[..., m.other[m.one]],
        torch.arange(8),
    ),
    "one after the other, as lists": (
        lambda h, m: h[..., m.one.tolist()][..., m.other.tolist()],
        lambda h, m: h[..., m.other.tolist()][..., m.one.tolist()],
        torch.arange(8),
    ),
    "two switches": (
        lambda h, m: -h if bool(m.one) and not bool(m.other) else h,
        lambda h, m: -h if bool(m.one) else h,
        torch.tensor(False),
    ),
}


@pytest.mark.parametrize("name", SEVERAL)
def test_two_buffers_that_only_differ_together_refute_the_proof(name: str) -> None:
    one, other, value = SEVERAL[name]
    pair = Several(one, value, value).eval(), Several(other, value, value).eval()
    assert not fxmap.auto_map(*pair, example_inputs=torch.randn(2, 6, 8)).proof.ok


@pytest.mark.parametrize("name", ["composed", "two switches"])
def test_two_buffers_that_both_models_read_alike_are_proven(name: str) -> None:
    function, _, value = SEVERAL[name]
    pair = Several(function, value, value).eval(), Several(function, value, value).eval()
    assert fxmap.auto_map(*pair, example_inputs=torch.randn(2, 6, 8)).proof.ok


def _patched(h: Tensor, m: Any) -> Any:
    return h * (m.s.sum() - m.s[2:].sum() + 1 + (m.s[2] > 9))


def _two_of_three(h: Tensor, m: Any) -> Tensor:
    return 2 * h if bool(m.s[1]) and not bool(m.s[2]) else h


ONE_NUMBER: dict[str, tuple[Function, Function, Tensor]] = {
    "a part of a version": (lambda h, m: h * (m.s[:2].sum() + 1), _patched, torch.tensor([1, 2, 3])),
    "one of three switches": (
        lambda h, m: 2 * h if bool(m.s[1]) and not bool(m.s[0]) else h,
        _two_of_three,
        torch.tensor([True, False, True]),
    ),
}


@pytest.mark.parametrize("name", ONE_NUMBER)
def test_one_number_of_a_buffer_that_matters_in_one_model_alone_refutes_the_proof(name: str) -> None:
    one, other, value = ONE_NUMBER[name]
    assert not fxmap.auto_map(Net(one, value).eval(), Net(other, value).eval(), example_inputs=torch.randn(2, 6, 8)).proof.ok


def test_each_number_of_a_few_is_changed_by_itself_and_within_the_range_of_all() -> None:
    found = [value.tolist() for value in integers_like(torch.tensor([1, 2, 3]), [9.0])]
    for value in ([1, 2, 10], [1, 10, 3], [10, 2, 3], [3, 2, 1], [1, 1, 3]):
        assert value in found


def test_tensors_that_are_changed_apart_get_other_permutations_each() -> None:
    order = torch.arange(8)
    drawn = list(apart({"a": order, "b": order}, (), 6))
    assert all(not torch.equal(values["a"], values["b"]) for values in drawn if len(values) == 2)
    assert {len(values) for values in drawn} == {1, 2}
