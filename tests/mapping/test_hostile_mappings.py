"""Mappings and states from elsewhere: what cannot be computed, compared or turned round is an error of fxmap's own."""

import json
from typing import Any

import pytest
import torch
from torch import nn

import fxmap
from fxmap.expressions.base import Source
from fxmap.expressions.layout import Columns, Gather, Slice
from fxmap.expressions.serial import parse


@pytest.mark.parametrize("text", ["reshape(weight, [])", "reshape(weight, [999999999999])", "permute(weight, [5])"])
def test_what_only_moves_numbers_and_does_not_fit_is_named(text: str) -> None:
    dst = nn.Linear(3, 2)
    with pytest.raises(fxmap.MappingError, match=r"weight = .*cannot be computed"):
        fxmap.KeyMapping({"weight": text, "bias": "bias"}).load_into(dst, nn.Linear(3, 2).state_dict())


def test_columns_of_a_vector_are_named() -> None:
    mapping = fxmap.KeyMapping({"weight": Source("weight"), "bias": Columns(Source("bias"), (0,))})
    with pytest.raises(fxmap.MappingError, match="bias = "):
        mapping.load_into(nn.Linear(3, 2), nn.Linear(3, 2).state_dict())


def test_a_slice_of_more_rows_than_there_are_is_not_turned_round() -> None:
    mapping = fxmap.KeyMapping({"a": Slice(Source("b"), 0, 2**62)})
    assert "b" not in mapping.inverse()


@pytest.mark.parametrize("key", [1, None, ("a",)])
def test_a_key_that_is_no_text_is_refused(key: Any) -> None:
    with pytest.raises(fxmap.MappingError, match="is text"):
        fxmap.KeyMapping({key: "weight"})


def test_nested_tensors_are_no_fault() -> None:
    state = {"weight": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "bias": torch.ones(2)}
    with pytest.raises(fxmap.FxmapError) as found:
        fxmap.load(nn.Linear(3, 2), state, src=nn.Linear(3, 2), verify=False)
    assert not isinstance(found.value, fxmap.InternalError)


@pytest.mark.parametrize(
    "data", [{"op": "gather", "of": {"op": "source", "key": "a"}, "rows": []}, {"op": "concat", "parts": []}]
)
def test_what_is_made_of_nothing_is_refused(data: Any) -> None:
    with pytest.raises(fxmap.MappingError, match="is empty"):
        parse(data)


def test_an_expression_without_a_status_is_refused() -> None:
    text = json.loads(fxmap.KeyMapping({"a": "b"}).to_json())
    text["knowledge"]["statuses"] = {}
    with pytest.raises(fxmap.MappingError, match="'a' has an expression, and no status"):
        fxmap.KeyMapping.from_json(json.dumps(text))


def test_rows_far_apart_are_not_counted_one_by_one() -> None:
    assert "b" not in fxmap.KeyMapping({"a": Gather(Source("b"), (4, 2**62))}).inverse()
