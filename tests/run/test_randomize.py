"""Random tensors are drawn for every weight, and large ones quickly."""

import torch
from torch import nn

from fxmap.capture.symbolic import capture_symbolic
from fxmap.normalize.network import Network
from fxmap.run.randomize import random_tensors


def test_large_weights_are_drawn_like_small_ones() -> None:
    model = nn.Sequential(nn.Linear(1024, 1024, bias=False), nn.Linear(1024, 1024, bias=False), nn.Linear(1024, 4))
    network = Network.of(capture_symbolic(model))
    first, second = (random_tensors(network, torch.Generator().manual_seed(0)) for _ in range(2))
    for path, tensor in first.items():
        assert type(tensor) is torch.Tensor
        assert tensor.dtype is torch.float64
        assert torch.equal(tensor, second[path])
    one, other, small = first["0.weight"], first["1.weight"], first["2.weight"]
    assert abs(float(one.std() / small.std()) - 1) < 0.25  # blocks have factors of their own
    assert abs(float((one * other).mean() / one.std() / other.std())) < 0.01
    assert len(one.unique()) > 0.9 * one.numel()
