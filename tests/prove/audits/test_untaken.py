"""Untaken: ways of the code that no run went are turned, and models that part there are not proven equal."""

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxmap
from fxmap.mapping.proof import Proof

ROWS = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))


class Chooses(nn.Module):
    """A layer, behind which the function chooses whether an activation follows."""

    def __init__(self, function: Callable[..., Tensor], act: nn.Module) -> None:
        super().__init__()
        self.a, self.act, self.calls, self.flag, self.function = nn.Linear(8, 4), act, 0, False, function

    def forward(self, x: Tensor, *options: Any) -> Tensor:
        return self.function(self, x, *options)


def by_size(m: Chooses, x: Tensor, options: dict[str, Any]) -> Tensor:
    return m.act(m.a(x)) if options["size"] == [640, 480] else m.a(x)


def by_identity(m: Chooses, x: Tensor, y: Tensor) -> Tensor:
    h = m.a(x) + m.a(y)
    return m.act(h) if x is y else h


def by_calls(m: Chooses, x: Tensor) -> Tensor:
    m.calls += 1
    return m.act(m.a(x)) if m.calls > 50 else m.a(x)


def by_dtype(m: Chooses, x: Tensor) -> Tensor:
    h = m.a(x.to(m.a.weight.dtype))
    return m.act(h) if x.dtype == torch.float16 else h


def by_device(m: Chooses, x: Tensor) -> Tensor:
    h = m.a(x)
    return m.act(h) if h.device.type == "cuda" else h


def by_text(m: Chooses, x: Tensor) -> Tensor:
    h = m.a(x)
    return m.act(h) if f"{float(x.max()):.2f}".startswith("47.11") else h


def by_case(m: Chooses, x: Tensor, mode: object) -> Tensor:
    match mode:
        case ("a", "b"):
            return m.act(m.a(x))
        case "3rd":
            return m.act(m.a(x))
    return m.a(x)


def by_two(m: Chooses, x: Tensor, lengths: list[int]) -> Tensor:
    return m.act(m.a(x)) if lengths[0] == 57 and lengths[1] == 58 else m.a(x)


CHOICES: list[tuple[Callable[..., Tensor], Any, str]] = [
    (by_size, (ROWS, {"size": [3, 5, 7]}), 'options["size"] == [640, 480]'),
    (by_identity, (ROWS, ROWS.flip(0)), "x is y"),
    (by_calls, ROWS, "m.calls > 50"),
    (by_dtype, ROWS, "x.dtype == torch.float16"),
    (by_device, ROWS, 'h.device.type == "cuda"'),
    (by_text, ROWS, '.startswith("47.11")'),
    (by_case, (ROWS, "first"), "by_case"),
    (by_two, (ROWS, [5, 6]), "lengths["),
]


def proof_of(one: nn.Module, other: nn.Module, example: Any) -> Proof:
    return fxmap.auto_map(one, other, example_inputs=example).proof


@pytest.mark.parametrize(("function", "example", "said"), CHOICES, ids=[choice[0].__name__ for choice in CHOICES])
def test_models_that_part_on_a_way_that_no_run_went_are_not_proven_and_the_branch_is_named(
    function: Callable[..., Tensor], example: Any, said: str
) -> None:
    proof = proof_of(Chooses(function, nn.ReLU()), Chooses(function, nn.Tanh()), example)
    assert not proof.ok
    assert said in proof.reason
    assert "test_untaken.py" in proof.reason
    assert "pass example_inputs" in proof.reason


@pytest.mark.parametrize("choice", CHOICES[:3], ids=[choice[0].__name__ for choice in CHOICES[:3]])
def test_a_model_is_itself_also_where_no_run_went_and_the_scope_says_where(
    choice: tuple[Callable[..., Tensor], Any, str],
) -> None:
    proof = proof_of(Chooses(choice[0], nn.ReLU()), Chooses(choice[0], nn.ReLU()), choice[1])
    assert proof.ok, proof.reason
    assert choice[2] in str(proof.scope)


def in_other_words(m: Chooses, x: Tensor, options: dict[str, Any]) -> Tensor:
    h = m.a(x)
    if tuple(options["size"]) == (640, 480):
        h = m.act(h)
    return h


def test_one_choice_in_other_words_is_turned_in_both_models() -> None:
    example = ROWS, {"size": [3, 5, 7]}
    assert proof_of(Chooses(by_size, nn.ReLU()), Chooses(in_other_words, nn.ReLU()), example).ok


def by_configuration(m: Chooses, x: Tensor) -> Tensor:
    return m.act(m.a(x)) if m.flag else m.a(x)


def refusing(m: Chooses, x: Tensor) -> Tensor:
    if x.dtype == torch.complex64:
        raise ValueError(f"{x.dtype}: no complex numbers")
    return m.a(x)


def plain(m: Chooses, x: Tensor) -> Tensor:
    return m.a(x)


@pytest.mark.parametrize("function", [by_configuration, refusing], ids=["configuration", "raises"])
def test_a_choice_that_no_caller_makes_or_that_only_raises_stands_against_nothing(function: Callable[..., Tensor]) -> None:
    assert proof_of(Chooses(function, nn.ReLU()), Chooses(plain, nn.Tanh()), ROWS).ok


def test_a_tracer_of_someone_else_is_left_alone_and_that_is_said() -> None:
    def tracer(*_: Any) -> None:
        return None

    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        proof = proof_of(Chooses(by_calls, nn.ReLU()), Chooses(by_calls, nn.ReLU()), ROWS)
        assert sys.gettrace() is tracer
    finally:
        sys.settrace(before)
    assert any("sys.settrace" in note for note in proof.notes)
    assert not proof.scope.avoided


def test_nothing_of_a_model_stays_turned() -> None:
    model = Chooses(by_size, nn.ReLU())
    example = ROWS, {"size": [3, 5, 7]}
    proof_of(model, Chooses(by_size, nn.Tanh()), example)
    assert model.function is by_size
    assert torch.equal(model(*example), model.a(ROWS))
    assert sys.gettrace() is None or "fxmap" not in getattr(sys.gettrace(), "__module__", "")


def endless(m: Chooses, x: Tensor, count: float) -> Tensor:
    h, i = m.a(x), 0.0
    while True:
        i = i if count == 12.125 else i + abs(count) + 1
        if i > abs(count):
            return h


def plain_counted(m: Chooses, x: Tensor, count: float) -> Tensor:
    return m.a(x)


def test_a_loop_that_would_never_end_where_a_jump_is_turned_is_given_up() -> None:
    assert proof_of(Chooses(endless, nn.ReLU()), Chooses(plain_counted, nn.ReLU()), (ROWS, 3.0)).ok


class Above(nn.Module):
    """An activation where a number is above a limit that the model holds."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.a, self.limit = nn.Linear(8, 4), limit

    def forward(self, x: Tensor, number: float) -> Tensor:
        made: Tensor = self.a(x).relu() if number > self.limit else self.a(x)
        return made


class Beyond(nn.Module):
    """The same with a limit in its code, and one that is higher."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(8, 4)

    def forward(self, x: Tensor, number: float) -> Tensor:
        made: Tensor = self.a(x).relu() if number > 70123.0 else self.a(x)
        return made


class Under(Beyond):
    def forward(self, x: Tensor, number: float) -> Tensor:
        made: Tensor = self.a(x).relu() if number > 50123.0 else self.a(x)
        return made


@pytest.mark.parametrize(
    ("one", "other", "ok"),
    [(Above(5e4), Above(7e4), False), (Above(5e4), Above(5e4), True), (Beyond(), Under(), False)],
    ids=["another limit", "one limit", "another limit in the code"],
)
def test_a_condition_that_no_input_met_is_one_only_if_it_compares_with_equal_numbers(
    one: nn.Module, other: nn.Module, ok: bool
) -> None:
    assert proof_of(one, other, (ROWS, 2.0)).ok is ok
