"""Derivations are built anew by every step, and say in print what they found."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxmap
from fxmap.capture.symbolic import capture_symbolic
from fxmap.mapping.findings import Mismatch
from fxmap.matching.align.align import align
from fxmap.matching.derive.derivation import Derivation, derive, derive_operands, in_stored_tensors
from fxmap.normalize.network import Network


class Joined(nn.Module):
    def __init__(self, outputs: int = 4) -> None:
        super().__init__()
        self.qk, self.out = nn.Linear(4, 8), nn.Linear(8, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.qk(x).tanh())


class Parts(nn.Module):
    """The same with the first layer's weight put together by code."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.out = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = torch.cat([self.q.weight, self.k.weight]), torch.cat([self.q.bias, self.k.bias])
        return self.out(F.linear(x, weight, bias).tanh())


def test_rewriting_in_stored_tensors_leaves_the_operands_as_they_were() -> None:
    src, dst = (Network.of(capture_symbolic(model)).ops for model in (Joined(), Parts()))
    assert dst.composed
    operands = derive_operands(src, dst, align(src, dst))
    before = copy.deepcopy(operands)
    stored = in_stored_tensors(operands, src, dst)
    assert operands == before
    assert dst.composed.keys() & operands.expressions.keys()
    assert not dst.composed.keys() & stored.expressions.keys()
    assert stored.expressions.keys() == {f"{layer}.{name}" for layer in ("q", "k", "out") for name in ("weight", "bias")}


def test_what_is_said_of_an_operand_is_said_of_its_parts() -> None:
    src, dst = (Network.of(capture_symbolic(model)).ops for model in (Joined(), Parts()))
    operands = derive_operands(src, dst, align(src, dst))
    (weight,) = (name for name in dst.composed if "q.weight" in dst.parts(name))
    rest = {key: made for key, made in operands.expressions.items() if key != weight}
    unknown = in_stored_tensors(Derivation(rest, reasons={weight: "why"}), src, dst)
    assert {key: unknown.reasons[key] for key in ("q.weight", "k.weight")} == {"q.weight": "why", "k.weight": "why"}
    mismatch = Mismatch(weight, "qk.weight", (8, 4), (8, 5))
    wrong = in_stored_tensors(Derivation(rest, mismatched={weight: mismatch}), src, dst)
    assert wrong.mismatched["k.weight"] == Mismatch("k.weight", "qk.weight", (8, 4), (8, 5))
    assert weight not in wrong.mismatched


def test_a_derivation_prints_what_is_made_and_what_is_not() -> None:
    src, dst = (Network.of(capture_symbolic(model)).ops for model in (Joined(outputs=3), Joined(outputs=5)))
    printed = str(derive(src, dst, align(src, dst)))
    assert printed.startswith("2 tensors made, 2 of another shape, 0 without a source\n")
    assert "out.weight: source out.weight (3, 8), destination (5, 8)" in printed
    many = str(Derivation(reasons={f"key{number}": "unknown" for number in range(8)}))
    assert many.endswith("and 3 more")


class Factors(nn.Module):
    """A layer times a product of stored tensors, one of which may be read once more."""

    def __init__(self, names: str, *, swapped: bool = False, again: bool = False) -> None:
        super().__init__()
        self.names, self.swapped, self.again, self.layer = names, swapped, again, nn.Linear(3, 3)
        for name in names:
            self.register_parameter(name, nn.Parameter(torch.randn(3)))

    def forward(self, x: Tensor) -> Tensor:
        factors = [getattr(self, name) for name in self.names]
        y = factors[1] * factors[0] if self.swapped else factors[0] * factors[1]
        for factor in factors[2:]:
            y = y * factor
        out: Tensor = self.layer(x) * y
        return out + factors[1] if self.again else out


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("swapped", [False, True])
def test_every_factor_of_a_product_of_stored_tensors_has_a_source(swapped: bool, again: bool) -> None:
    src, dst = Factors("abc", again=again), Factors("pqr", swapped=swapped, again=again)
    one, other = (Network.of(capture_symbolic(model)).ops for model in (src, dst))
    found = derive(one, other, align(one, other)).expressions
    assert {str(found[name]) for name in "pqr"} == set("abc")
    if again:
        assert str(found["q"]) == "b"
    mapping = fxmap.auto_map(src, dst, example_inputs=torch.randn(2, 3))
    assert mapping.proof.ok
    assert [step for step in mapping.trace.steps if step.left] == []
