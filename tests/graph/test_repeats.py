"""Calls that compute what an earlier one has computed."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx

from fxmap.graph.repeats import repeats

_ATEN = torch.ops.aten


@pytest.mark.parametrize("draw", [torch.normal, _ATEN.normal.Tensor_Tensor, _ATEN.bernoulli.default, torch.empty_like])
def test_what_is_new_with_each_call_is_no_repeat(draw: Callable[..., Any]) -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    for _ in range(2):
        graph.call_function(draw, (x, x) if "normal" in str(draw) else (x,))
    assert repeats(graph) == {}


def test_calls_of_which_an_argument_differs_are_no_repeats() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    a, b, c = (graph.call_function(torch.sum, (x, axis)) for axis in (0, 1, 0))
    assert repeats(graph) == {c: a}
    assert b not in repeats(graph)
