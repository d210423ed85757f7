"""Unselected: what code selects without a branch is selected otherwise, and models that part there are not proven equal."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxmap
from fxmap.mapping.proof import Proof

ROWS = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
NUMBER: tuple[Any, ...] = (ROWS, 2.0)
NAMED: tuple[Any, ...] = (ROWS, {"name": "first"})


class Selects(nn.Module):
    """A layer, behind which the function selects whether an activation follows."""

    def __init__(self, function: Callable[..., Any], act: nn.Module, note: str = "") -> None:
        super().__init__()
        self.a, self.act, self.calls, self.function, self.note = nn.Linear(8, 4), act, 0, function, note
        self.acts = nn.ModuleDict({"plain": nn.Identity(), "other": act})

    def forward(self, x: Tensor, *options: Any) -> Any:
        return self.function(self, x, *options)

    def on(self, h: Tensor) -> Any:
        return self.act(h)

    def off(self, h: Tensor) -> Tensor:
        return h


def is_far(n: float) -> bool:
    return str(n).startswith("77.5")


def by_truth(m: Selects, x: Tensor, n: float) -> Any:
    return {True: m.act, False: nn.Identity()}[is_far(n)](m.a(x))


def by_place(m: Selects, x: Tensor, n: float) -> Any:
    return [nn.Identity(), m.act][int(is_far(n))](m.a(x))


def by_name(m: Selects, x: Tensor, n: float) -> Any:
    return getattr(m, "o" + {"2.0": "ff"}.get(str(n)[:3], "ff" if n < 1e9 else "n"))(m.a(x))


def by_module(m: Selects, x: Tensor, n: float) -> Any:
    return m.acts[str(n).replace("77.53", "other") if len(str(n)) > 9 else "plain"](m.a(x))


def by_get(m: Selects, x: Tensor, n: float) -> Any:
    return {"77.53 m": m.act}.get(f"{n} m", nn.Identity())(m.a(x))


def by_product(m: Selects, x: Tensor, n: float) -> Any:
    h = m.a(x)
    return h + m.act(h) * is_far(n)


def by_turns(m: Selects, x: Tensor, n: float) -> Any:
    h = m.a(x)
    for _ in range(int(is_far(n))):
        h = m.act(h)
    return h


def by_cut(m: Selects, x: Tensor, n: float) -> Any:
    h = m.a(x)
    for act in [m.act][: str(n).count("77.53")]:
        h = act(h)
    return h


def by_exception(m: Selects, x: Tensor, o: dict[str, str]) -> Any:
    try:
        o["name"].encode("ascii")
    except UnicodeError:
        return m.act(m.a(x))
    return m.a(x)


def by_no_exception(m: Selects, x: Tensor, o: dict[str, str]) -> Any:
    try:
        int(o["name"], 36 - 33)
    except ValueError:
        return m.a(x)
    return m.act(m.a(x))


def by_suppressed(m: Selects, x: Tensor, o: dict[str, str]) -> Any:
    h = m.act(m.a(x))
    with suppress(UnicodeError):
        o["name"].encode("ascii")
        h = m.a(x)
    return h


def by_kind(m: Selects, x: Tensor, n: Any) -> Any:
    match n:
        case float() | int():
            return m.a(x)
        case complex():
            return m.act(m.a(x))
    return m.a(x)


def by_history(m: Selects, x: Tensor) -> Any:
    m.calls += 1
    return [nn.Identity(), m.act][m.calls // 50 % 2](m.a(x))


SELECTIONS: list[tuple[Callable[..., Any], Any, str]] = [
    (by_truth, NUMBER, "is_far(n)"),
    (by_place, NUMBER, "int(is_far(n))"),
    (by_name, NUMBER, "o"),
    (by_module, NUMBER, "str(n).replace"),
    (by_get, NUMBER, "{n} m"),
    (by_product, NUMBER, "is_far(n)"),
    (by_turns, NUMBER, "range(int(is_far(n)))"),
    (by_cut, NUMBER, ".count("),
    (by_exception, NAMED, "except UnicodeError"),
    (by_no_exception, NAMED, "except ValueError"),
    (by_suppressed, NAMED, "suppress(UnicodeError)"),
    (by_kind, NUMBER, "take case 2"),
    (by_history, ROWS, "m.calls // 50 % 2"),
]


def proof_of(one: nn.Module, other: nn.Module, example: Any) -> Proof:
    proof = fxmap.auto_map(one, other, example_inputs=example).proof
    assert proof is not None
    return proof


@pytest.mark.parametrize(("function", "example", "said"), SELECTIONS, ids=[one[0].__name__ for one in SELECTIONS])
def test_models_that_part_on_what_no_run_selected_are_not_proven_and_the_place_is_named(
    function: Callable[..., Any], example: Any, said: str
) -> None:
    proof = proof_of(Selects(function, nn.ReLU()), Selects(function, nn.Tanh()), example)
    assert not proof.ok
    assert said in proof.reason
    assert "test_unselected.py" in proof.reason
    assert "pass example_inputs" in proof.reason


@pytest.mark.parametrize(("function", "example", "said"), SELECTIONS, ids=[one[0].__name__ for one in SELECTIONS])
def test_models_that_are_one_on_what_no_run_selected_are_proven(
    function: Callable[..., Any], example: Any, said: str
) -> None:
    proof = proof_of(Selects(function, nn.ReLU()), Selects(function, nn.ReLU(), "not alike"), example)
    assert proof.ok, proof.reason


def by_branch(m: Selects, x: Tensor, n: float) -> Any:
    h = m.a(x)
    if is_far(n):
        h = m.act(h)
    return h


@pytest.mark.parametrize("function", [by_truth, by_place, by_turns], ids=lambda one: one.__name__)
def test_one_choice_with_a_branch_and_without_one_is_one(function: Callable[..., Any]) -> None:
    assert proof_of(Selects(function, nn.ReLU()), Selects(by_branch, nn.ReLU()), NUMBER).ok
    assert proof_of(Selects(by_branch, nn.ReLU()), Selects(function, nn.ReLU()), NUMBER).ok
    assert not proof_of(Selects(function, nn.ReLU()), Selects(by_branch, nn.Tanh()), NUMBER).ok


class Starts(nn.Module):
    """Selects by a text that it holds."""

    def __init__(self, start: str) -> None:
        super().__init__()
        self.a, self.start = nn.Linear(8, 4), start

    def forward(self, x: Tensor, n: float) -> Any:
        h = self.a(x)
        return [h, h.relu()][int(str(n).startswith(self.start))]


def test_a_selection_that_reads_another_text_is_another_one() -> None:
    assert proof_of(Starts("77.53"), Starts("77.53"), NUMBER).ok
    assert not proof_of(Starts("77.53"), Starts("88.61"), NUMBER).ok


class Inner(nn.Module):
    """Chooses in a method that a class below it calls by `super`."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.a, self.act = nn.Linear(8, 4), act

    def forward(self, x: Tensor, n: float) -> Any:
        return self.act(self.a(x)) if str(n).startswith("77.5") else self.a(x)


class Outer(Inner):
    def forward(self, x: Tensor, n: float) -> Any:
        return super().forward(x, n)


def test_a_choice_in_a_method_that_super_calls_is_tried() -> None:
    assert not proof_of(Outer(nn.ReLU()), Outer(nn.Tanh()), NUMBER).ok
    assert proof_of(Outer(nn.ReLU()), Outer(nn.ReLU()), NUMBER).ok


def fails(m: Selects, x: Tensor, n: float) -> Any:
    h = m.a(x)
    return m.missing(h) if is_far(n) else h


def test_a_way_on_which_one_model_alone_fails_stands_against_a_proof() -> None:
    one, other = Selects(fails, nn.ReLU()), Selects(fails, nn.ReLU())
    assert proof_of(one, Selects(fails, nn.ReLU(), "not alike"), NUMBER).ok  # both fail
    other.missing = nn.Tanh()
    proof = proof_of(one, other, NUMBER)
    assert not proof.ok
    assert "is_far(n)" in proof.reason


def test_a_way_on_which_nothing_ran_is_named_in_the_scope() -> None:
    proof = proof_of(Selects(fails, nn.ReLU()), Selects(fails, nn.ReLU(), "not alike"), NUMBER)
    assert any("where nothing ran" in text for text in proof.scope.avoided)


def by_layers(m: Selects, x: Tensor, n: int) -> Any:
    h = m.a(x)
    for act in [m.act, nn.Tanh(), m.act][:n]:
        h = act(h)
    return h


def in_turn(m: Selects, x: Tensor, n: int) -> Any:
    h = m.a(x)
    acts = iter((m.act, nn.Tanh(), m.act))
    while n and (act := next(acts, None)) is not None:
        h, n = act(h), n - 1
    return h


def test_what_some_run_selected_stands_against_no_proof_whatever_is_forced() -> None:
    proof = proof_of(Selects(by_layers, nn.ReLU()), Selects(in_turn, nn.ReLU()), (ROWS, 2))
    assert proof.ok, proof.reason


def test_a_model_is_left_as_it_was() -> None:
    model = Selects(by_exception, nn.ReLU())
    before = dict(vars(model))
    proof_of(model, Selects(by_exception, nn.Tanh()), NAMED)
    assert vars(model) == before


def decides(m: Selects, x: Tensor) -> Any:
    h = m.a(x)
    return m.missing(h) if bool(h.mean() > 1e12) else h


def test_a_decision_by_values_on_which_one_model_alone_fails_stands_against_a_proof() -> None:
    one, other = Selects(decides, nn.ReLU()), Selects(decides, nn.ReLU())
    both_fail = proof_of(one, Selects(decides, nn.ReLU(), "not alike"), ROWS)
    assert both_fail.ok, both_fail.reason
    assert any("h.mean()" in text and "where nothing ran" in text for text in both_fail.scope.avoided)
    other.missing = nn.Tanh()
    assert "h.mean()" in proof_of(one, other, ROWS).reason
