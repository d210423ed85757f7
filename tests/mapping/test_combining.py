"""Parts of mappings, and mappings merged: what they make, and that nothing is called proven for it."""

from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch import nn

import fxmap
from fxmap.mapping.findings import Findings
from fxmap.mapping.key_mapping import KeyMapping
from fxmap.mapping.proof import Proof, Status, StatusName


class Net(nn.Module):
    def __init__(self, body: str, head: str) -> None:
        super().__init__()
        self.names = body, head
        self.add_module(body, nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5)))
        self.add_module(head, nn.Linear(5, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return getattr(self, self.names[1])(torch.tanh(getattr(self, self.names[0])(x)))


@pytest.fixture
def proven() -> KeyMapping:
    mapping = fxmap.auto_map(Net("net", "fc"), Net("backbone", "head"), example_inputs=torch.randn(2, 4))
    assert mapping.ok
    return mapping


def test_a_part_has_the_keys_of_its_patterns_and_is_not_called_proven(proven: KeyMapping) -> None:
    part = proven.select("backbone.?.weight", "head.bias")
    assert list(part) == ["backbone.0.weight", "backbone.2.weight", "head.bias"]
    assert not part.ok
    assert part.proof.verdict == "no proof asked for"
    assert part.keys_with("claimed") == list(part)
    assert part.unexpected == ["net.0.bias", "net.2.bias", "fc.weight"]


def test_the_parts_of_a_mapping_merge_to_it_and_a_run_proves_it_again(proven: KeyMapping) -> None:
    whole = proven.select("head.*") | proven.select("backbone.*")
    assert whole == proven
    assert whole.unexpected == []
    assert not whole.ok
    src, dst = Net("net", "fc"), Net("backbone", "head")
    proof = fxmap.verify(src, dst, whole, example_inputs=torch.randn(2, 4))
    assert whole.with_proof(proof).ok


def test_a_pattern_without_a_key_names_the_closest(proven: KeyMapping) -> None:
    with pytest.raises(fxmap.MappingError, match=r"'backbnoe.\*' matches none of the 6 .* closest are backbone"):
        proven.select("backbnoe.*")


def test_a_key_made_in_two_ways_is_refused() -> None:
    one, other = KeyMapping({"a": "x", "b": "y"}), KeyMapping({"b": "z", "c": "w"})
    with pytest.raises(fxmap.MappingError, match="b: made in two ways, b as y and as z"):
        one | other
    assert (one | other.select("c")).renames == {"a": "x", "b": "y", "c": "w"}


def test_a_key_that_one_lacks_and_the_other_makes_is_made() -> None:
    lacking = KeyMapping({"a": "x"}, Findings({"a": Status.PROVEN, "b": Status.MISSING}, reasons={"b": "no layer"}))
    whole = lacking | KeyMapping({"b": "y"}, Findings({"b": Status.MATCHED}))
    assert (whole.missing, whole.status("a"), whole.status("b")) == ([], Status.CLAIMED, Status.MATCHED)
    assert whole.knowledge.reasons == {}
    kept = KeyMapping({}, Findings({"b": Status.KEPT}))
    assert (kept | lacking).missing == ["b"]  # what is kept in a part may be lacking in the whole


def test_a_guess_and_a_match_of_one_expression_are_a_match() -> None:
    one, other = (KeyMapping({"a": "x"}, Findings({"a": status})) for status in (Status.GUESSED, Status.MATCHED))
    assert (one | other).status("a") is (other | one).status("a") is Status.MATCHED


@pytest.mark.parametrize("turned", [False, True])
def test_what_a_run_refuted_stays_refuted_in_parts_and_wholes(turned: bool) -> None:
    proof = Proof(statuses={"weight": Status.MATCHED}, error=0.4, forwards=6, differs=True)
    refuted = KeyMapping({"weight": "w"}, proof=proof)
    other = KeyMapping({"bias": "b"}).with_proof(Proof(ok=True, statuses={"bias": Status.PROVEN}))
    whole = other | refuted if turned else refuted | other
    for mapping in (whole, whole.select("*"), refuted.select("weight")):
        assert mapping.proof.refuted
    with pytest.raises(fxmap.ProofError):
        whole.load_into(nn.Linear(2, 2), {"w": torch.zeros(2, 2), "b": torch.zeros(2)})


def test_merging_with_something_else_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        KeyMapping({"a": "x"}) | {"b": "y"}


def test_mappings_of_other_sources_are_refused() -> None:
    one, other = (KeyMapping({}, replace(Findings(), src_shapes={"w": (n, 2)})) for n in (2, 3))
    with pytest.raises(fxmap.MappingError, match="different shapes of the source"):
        one | other


def test_every_status_has_its_name_in_the_literal() -> None:
    assert list(get_args(StatusName)) == [str(status) for status in Status]


def test_a_proof_is_short_as_repr_and_explains_itself_at_length(proven: KeyMapping) -> None:
    proof = proven.proof
    assert len(repr(proof)) < 80
    assert repr(proof).startswith("<Proof: proven, ")
    assert all(line in proof.explain() for line in proof.scope.ran)
    assert len(str(proof)) < len(proof.explain())
    assert "6  proven" in proof.explain()
