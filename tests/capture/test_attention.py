"""Fused kernels of attention are recorded as torch's own switch would have them computed."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from fxmap.capture.recorder import Recorder

Q, K = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 5, 8)
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"is_causal": True},
    "mask of booleans": {"attn_mask": torch.ones(5, 5).bool()},
    "mask of numbers": {"attn_mask": torch.zeros(5, 5)},
    "groups": {"enable_gqa": True, "is_causal": True},
    "scale": {"scale": 0.3},
}


def _recorded(query: torch.Tensor, key: torch.Tensor, options: dict[str, Any]) -> tuple[list[str], torch.Tensor]:
    recorder = Recorder([query, key], {})
    with torch.no_grad(), recorder:
        value = F.scaled_dot_product_attention(query, key, key, **options)
    return [str(node.target).replace("_unsafe_view", "view") for node in recorder.recording.graph.nodes], value


@pytest.mark.parametrize("name", CASES)
def test_operations_are_those_without_fused_kernels(name: str) -> None:
    key = K if name == "groups" else Q.clone()
    with sdpa_kernel(SDPBackend.MATH):
        expected, value = _recorded(Q, key, CASES[name])
    found, other = _recorded(Q, key, CASES[name])
    assert found == expected
    assert torch.equal(value, other)
