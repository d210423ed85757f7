"""Rows that a source does not have, and shapes that it had not when the mapping was made, are refused."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxmap
from fxmap.expressions.regions import evaluate_region
from fxmap.mapping.findings import Findings
from fxmap.mapping.proof import Status

QKV = {name: f"qkv.weight[{6 * place}:{6 * place + 6}]" for place, name in enumerate(("q.weight", "k.weight", "v.weight"))}


class Split(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(6, 6, bias=False) for _ in range(3))


def converted(mapping: fxmap.KeyMapping, state: dict[str, Tensor]) -> dict[str, Tensor]:
    namespace: dict[str, Any] = {}
    exec(mapping.to_python(), namespace)
    made: dict[str, Tensor] = namespace["convert"](state)
    return made


def test_rows_that_are_not_there_are_refused_with_key_shape_and_range() -> None:
    mapping, short = fxmap.KeyMapping(QKV), {"qkv.weight": torch.zeros(9, 6)}
    said = re.escape("k.weight = qkv.weight[6:12]: qkv.weight is [9, 6] in the source, and has no rows 6 to 12")
    for use in (mapping.apply, lambda state: dict(mapping.lazy(state)), lambda state: mapping.load_into(Split(), state)):
        with pytest.raises(fxmap.MappingError, match=said):
            use(short)
    with pytest.raises(fxmap.MappingError, match="no rows 12 to 18"):
        evaluate_region(mapping["v.weight"], short, ((0, 2), (0, 6)))
    with pytest.raises(ValueError, match=re.escape("qkv.weight: [9, 6], and the mapping reads one with so many rows [18]")):
        converted(mapping, short)


def test_another_shape_than_the_mapping_was_made_of_is_refused() -> None:
    known = Findings(dict.fromkeys(QKV, Status.MATCHED), src_shapes={"qkv.weight": (18, 6)})
    mapping, long = fxmap.KeyMapping(QKV, known), {"module.qkv.weight": torch.zeros(24, 6)}
    for use in (mapping.apply, mapping.lazy, lambda state: mapping.load_into(Split(), state)):
        with pytest.raises(fxmap.MappingError, match=r"qkv\.weight: \[24, 6\] in the source, and .* of \[18, 6\]"):
            use(long)
    with pytest.raises(ValueError, match=r"qkv\.weight: \[24, 6\], and the mapping reads one of the shape \[18, 6\]"):
        converted(mapping, {"qkv.weight": torch.zeros(24, 6)})
    state = {"qkv.weight": torch.randn(18, 6)}
    mapping.load_into(Split(), state)
    assert torch.equal(converted(mapping, state)["v.weight"], state["qkv.weight"][12:])


def test_written_python_says_in_one_line_which_key_is_absent() -> None:
    with pytest.raises(KeyError, match=r"qkv\.weight: not in the state dict, which has 1 keys"):
        converted(fxmap.KeyMapping(QKV), {"other": torch.zeros(1)})
