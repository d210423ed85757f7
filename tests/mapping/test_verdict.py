"""A mapping that a run has refuted is not written without a word."""

import pytest
import torch
from torch import Tensor, nn

import fxmap
from fxmap.mapping.proof import Proof

REFUTED = Proof(forwards=6, error=0.4, differs=True)


def mapped(proof: Proof) -> fxmap.KeyMapping:
    return fxmap.KeyMapping({"weight": "weight", "bias": "bias"}).with_verdict(proof)


def written(proof: Proof, **how: object) -> bool:
    src, dst = nn.Linear(2, 2), nn.Linear(2, 2)
    mapped(proof).load_into(dst, src.state_dict(), **how)  # type: ignore[arg-type]
    return torch.equal(src.weight, dst.weight)


def test_a_refuted_mapping_is_not_written_and_the_ways_out_write_it() -> None:
    with pytest.raises(fxmap.ProofError, match='verify="warn"'):
        written(REFUTED)
    with pytest.warns(fxmap.ProofWarning, match="their outputs differ"):
        assert written(REFUTED, verify="warn")
    assert written(REFUTED, verify=False)


def test_outputs_that_differ_for_a_known_reason_are_written_with_a_warning() -> None:
    with pytest.warns(fxmap.ProofWarning, match="an eps"):
        assert written(Proof(forwards=6, error=0.4, differs=True, explained=True, reason="an eps"))
    assert written(Proof(forwards=6, ok=True))
    assert written(Proof.not_asked({}))


class Twice(nn.Module):
    """A network in which a wrong order of two layers of one shape shows."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.b(torch.tanh(self.a(x)))
        return y


def test_nothing_is_written_where_the_error_is_raised() -> None:
    src, dst = Twice(), Twice()
    wrong = fxmap.KeyMapping(
        {f"{one}.{leaf}": f"{other}.{leaf}" for one, other in ("ab", "ba") for leaf in ("weight", "bias")}
    )
    before = dst.a.weight.detach().clone()
    proof = fxmap.verify(src, dst, wrong, example_inputs=torch.randn(2, 4))
    with pytest.raises(fxmap.ProofError):
        wrong.with_verdict(proof).load_into(dst, src.state_dict())
    assert torch.equal(dst.a.weight, before)
