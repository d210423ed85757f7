"""A mapping that a run has refuted is not written without a word."""

from collections.abc import Callable

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


def test_one_part_of_a_tensor_parallel_checkpoint_is_called_by_its_name() -> None:
    whole = nn.Sequential(*(nn.Linear(8, 8) for _ in range(4)))
    part = {key: value[:4].clone() for key, value in whole.state_dict().items()}
    with pytest.raises(fxmap.LoadError, match="one of 2 parts of a tensor parallel checkpoint"):
        fxmap.load(whole, part)


def test_a_head_of_half_the_classes_is_none() -> None:
    whole = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    other = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
    with pytest.raises(fxmap.LoadError, match="was replaced"):
        fxmap.load(whole, other.state_dict())


def read_again(mapping: fxmap.KeyMapping) -> fxmap.KeyMapping:
    return fxmap.KeyMapping.from_json(mapping.to_json())


def test_a_refuted_mapping_is_refuted_when_it_is_read_from_json() -> None:
    again = read_again(mapped(Proof(forwards=6, error=float("inf"), differs=True, reason="the outputs differ by 0.4")))
    assert again.proof.refuted
    state, dst = nn.Linear(2, 2).state_dict(), nn.Linear(2, 2)
    before = dst.weight.detach().clone()
    for mapping in (again, read_again(again)):
        with pytest.raises(fxmap.ProofError, match=r"the outputs differ by 0\.4"):
            mapping.load_into(dst, state)
    assert torch.equal(dst.weight, before)
    with pytest.warns(fxmap.ProofWarning, match="refuted"):
        again.load_into(dst, state, verify="warn")
    assert read_again(mapped(Proof(ok=True, forwards=6))).proof.verdict == "no proof asked for"


def test_every_other_use_of_a_refuted_mapping_warns_or_raises() -> None:
    mapping, state = mapped(REFUTED), nn.Linear(2, 2).state_dict()
    uses: list[Callable[[], object]] = [lambda: mapping.apply(state), lambda: mapping.lazy(state)]
    for use in (*uses, mapping.to_python, mapping.to_state_dict_adapter):
        with pytest.warns(fxmap.ProofWarning, match="refuted"):
            use()
    with pytest.raises(fxmap.ProofError, match="their outputs differ"):
        mapping.load_planner()
    assert mapping.load_planner(verify=False)


def test_a_file_that_says_refuted_and_does_not_say_why_is_no_mapping() -> None:
    text = mapped(REFUTED).to_json()
    for said in ('"error": 0.0', '"error": [1]'):
        with pytest.raises(fxmap.MappingError, match="not a mapping that fxmap wrote"):
            fxmap.KeyMapping.from_json(text.replace('"error": 0.4', said))
