"""KeyMapping: applying, loading all or nothing, JSON, Python, inverse."""

import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import fxmap
from fxmap.expressions.base import Source
from fxmap.mapping.key_mapping import KeyMapping
from fxmap.mapping.proof import Status
from fxmap.testing.planted import planted_pair, randomised


@pytest.fixture
def pair() -> tuple[nn.Module, nn.Module, KeyMapping]:
    src, dst, _ = planted_pair(3)
    return src, dst, fxmap.auto_map(src, dst, verify=False)


def test_apply_makes_only_what_the_source_makes(pair: Any) -> None:
    src, dst, mapping = pair
    made = mapping.apply(src.state_dict())
    assert list(made) == list(mapping)
    like = dst.state_dict()
    assert list(mapping.apply(src.state_dict(), like=like)) == list(like)


def test_apply_leaves_its_arguments_alone(pair: Any) -> None:
    src, _, mapping = pair
    state = src.state_dict()
    before = {key: value.clone() for key, value in state.items()}
    mapping.apply(state)
    assert all(torch.equal(value, state[key]) for key, value in before.items())


def test_it_is_a_mapping_and_its_own_arguments(pair: Any) -> None:
    _, _, mapping = pair
    assert dict(KeyMapping(dict(mapping))) == dict(mapping)
    assert mapping.renames == {key: expression.key for key, expression in mapping.items()}


def test_unknown_key(pair: Any) -> None:
    _, _, mapping = pair
    with pytest.raises(KeyError, match="nowhere: not a key of the destination"):
        mapping["nowhere"]
    with pytest.raises(KeyError):
        mapping.status("nowhere")


def test_load_reports_what_was_written(pair: Any) -> None:
    src, dst, mapping = pair
    loaded = mapping.load_into(dst, src.state_dict())
    assert loaded.written == len(dst.state_dict())
    assert loaded.missing_keys == []
    assert loaded.unexpected_keys == []


def _unchanged(dst: nn.Module, call: Any, error: type[Exception]) -> str:
    before = {key: value.clone() for key, value in dst.state_dict().items()}
    with pytest.raises(error) as caught:
        call()
    assert all(torch.equal(value, dst.state_dict()[key]) for key, value in before.items())
    return str(caught.value)


def test_a_missing_source_key_changes_nothing(pair: Any) -> None:
    src, dst, mapping = pair
    state = src.state_dict()
    lost = list(state)[-1]
    del state[lost]
    assert lost in _unchanged(dst, lambda: mapping.load_into(dst, state), fxmap.MappingError)


def test_a_wrong_shape_changes_nothing(pair: Any) -> None:
    src, dst, mapping = pair
    state = src.state_dict()
    key = list(state)[-1]
    state[key] = torch.zeros(77)
    text = _unchanged(dst, lambda: mapping.load_into(dst, state), fxmap.LoadError)
    assert "source [77], destination [5]" in text


def test_meta_tensors_change_nothing(pair: Any) -> None:
    src, dst, mapping = pair
    state = {key: value.to("meta") for key, value in src.state_dict().items()}
    assert "meta device" in _unchanged(dst, lambda: mapping.load_into(dst, state), fxmap.LoadError)


def test_a_model_that_fails_half_way_gets_its_values_back() -> None:
    class Stubborn(nn.Linear):
        broken = False

        def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
            super()._load_from_state_dict(*args, **kwargs)
            if self.broken:
                type(self).broken = False
                raise RuntimeError("disk on fire")

    dst = nn.Sequential(nn.Linear(2, 2), Stubborn(2, 2))
    Stubborn.broken = True
    mapping = KeyMapping({key: key for key in dst.state_dict()})
    state = {key: torch.full_like(value, 9) for key, value in dst.state_dict().items()}
    text = _unchanged(dst, lambda: mapping.load_into(dst, state), fxmap.LoadError)
    assert "disk on fire" in text


def test_nothing_written_is_an_error() -> None:
    dst = nn.Linear(2, 2)
    text = _unchanged(dst, lambda: KeyMapping({}).load_into(dst, {"a": torch.ones(1)}), fxmap.LoadError)
    assert text.startswith("0 of 2 tensors")


def test_a_mapping_for_another_model_is_refused() -> None:
    dst = nn.Linear(2, 2)
    mapping = KeyMapping({"head.weight": "weight"})
    assert "head.weight: not in the destination" in _unchanged(
        dst, lambda: mapping.load_into(dst, dst.state_dict()), fxmap.LoadError
    )


def test_json_round_trip_with_statuses(pair: Any) -> None:
    _, _, mapping = pair
    again = KeyMapping.from_json(mapping.to_json())
    assert again == mapping
    assert again.status(next(iter(again))) is Status.MATCHED
    assert len(mapping.to_json()) < 20_000


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "null", '{"fxmap": 99}', '{"fxmap": 1, "expressions": 3, "knowledge": {}}', "[" * 100_000]
)
def test_other_json_is_refused(text: str) -> None:
    with pytest.raises(fxmap.MappingError):
        KeyMapping.from_json(text)


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_damaged_json_is_refused_or_still_a_mapping(data: st.DataObject) -> None:
    text = KeyMapping({"a": "b", "c": "d"}).to_json()
    start = data.draw(st.integers(0, len(text)))
    damaged = text[:start] + data.draw(st.text(max_size=3)) + text[start + data.draw(st.integers(0, 9)) :]
    try:
        mapping = KeyMapping.from_json(damaged)
    except fxmap.MappingError:
        return
    assert all(isinstance(key, str) for key in mapping)
    json.loads(mapping.to_json())


@pytest.mark.parametrize("folded", [True, False])
def test_python_source_makes_the_same(folded: bool) -> None:
    src, dst, _ = planted_pair(5, folded=folded)
    mapping = fxmap.auto_map(src, dst, verify=False)
    scope: dict[str, Any] = {}
    exec(mapping.to_python(), scope)
    made, expected = scope["convert"](src.state_dict()), mapping.apply(src.state_dict())
    assert made.keys() == expected.keys()
    assert all(torch.equal(made[key], expected[key]) for key in made)


def test_inverse_of_renames(pair: Any) -> None:
    src, dst, mapping = pair
    back = mapping.inverse()
    again = back.apply(mapping.apply(src.state_dict(), like=dst.state_dict()))
    assert all(torch.equal(value, again[key]) for key, value in src.state_dict().items())


def test_inverse_names_what_cannot_be_made_back() -> None:
    src, dst, _ = planted_pair(5, folded=True)
    back = fxmap.auto_map(src, dst, verify=False).inverse()
    norms = [key for key in src.state_dict() if key.endswith("running_mean")]
    assert norms
    assert all("cannot be solved" in back.knowledge.reasons[key] for key in norms)
    assert set(norms) <= set(back.missing)


def test_neither_expression_nor_key() -> None:
    with pytest.raises(fxmap.MappingError, match="neither an expression nor a source key"):
        KeyMapping({"a": 3})  # type: ignore[dict-item]


def test_report_says_what_a_person_needs(pair: Any) -> None:
    _, _, mapping = pair
    text = str(mapping)
    assert f"{len(mapping)} of {len(mapping)} destination keys" in text
    assert "matched by structure, not proven" in text
    assert "symbolic trace" in text


def test_head_of_another_size_in_the_report() -> None:
    def build(classes: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes))

    src, dst = build(5), build(6)
    mapping = fxmap.auto_map(randomised(src, 0), dst)
    assert "3.weight [6, 4]: source 3.weight [5, 4]" in str(mapping)
    assert mapping["0.weight"] == Source("0.weight")
    assert mapping.status("0.weight") is Status.PROVEN
    assert mapping.status("3.weight") is Status.MISMATCHED
    assert "weight [6, 4] against [5, 4]" in str(mapping.proof)
