"""State dicts with tensors that are not strided: sparse ones are made dense, nested ones refused by name."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import fxmap

pytestmark = [pytest.mark.filterwarnings("ignore:Sparse"), pytest.mark.filterwarnings("ignore:The PyTorch API of nested")]

KINDS = {
    "coo": lambda value: value.to_sparse(),
    "csr": lambda value: value.to_sparse_csr() if value.dim() == 2 else value,
    "mkldnn": lambda value: value.to_mkldnn(),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("named", [True, False])
def test_pruned_weights_are_loaded(kind: str, named: bool) -> None:
    src, dst = nn.Linear(4, 3), nn.Linear(4, 3)
    with torch.no_grad():
        src.weight[src.weight < 0] = 0
    state = {key: KINDS[kind](value.detach()) for key, value in src.state_dict().items()}
    if named:
        fxmap.load(dst, state)
    else:
        fxmap.KeyMapping({key: key for key in state}).load_into(dst, state)
    assert torch.equal(dst.weight, src.weight)
    assert torch.equal(dst.bias, src.bias)


def test_pruned_weights_of_a_file_are_loaded(tmp_path: Path) -> None:
    src, dst = nn.Linear(4, 3), nn.Linear(4, 3)
    torch.save({key: value.to_sparse() for key, value in src.state_dict().items()}, tmp_path / "a.pth")
    assert fxmap.load(dst, tmp_path / "a.pth", src=nn.Linear(4, 3)).ok
    assert torch.equal(dst.weight, src.weight)


def large() -> Tensor:
    return torch.sparse_coo_tensor(torch.tensor([[1], [2]]), torch.ones(1), (10**6, 10**6))


def test_a_sparse_tensor_that_would_fill_the_memory_is_refused() -> None:
    dst = nn.Module()
    dst.register_buffer("w", torch.zeros(1))
    with pytest.raises(fxmap.LoadError, match=r"w: source \[1000000, 1000000\], destination \[1\]"):
        fxmap.KeyMapping({"w": "w"}).load_into(dst, {"w": large()})
    dst = nn.Module()
    dst.register_buffer("w", torch.zeros(1, 10**6))
    with pytest.raises(fxmap.CheckpointError, match=r"w: a sparse tensor of \d+ bytes that would become 4,000,000,000,000"):
        fxmap.KeyMapping({"w": "w[1:2]"}).load_into(dst, {"w": large()})


def test_a_nested_tensor_is_refused_by_name() -> None:
    dst = nn.Linear(4, 3, bias=False)
    before = dst.weight.detach().clone()
    with pytest.raises(fxmap.LoadError, match=r"weight: source nested tensor, .* destination \[3, 4\]"):
        fxmap.KeyMapping({"weight": "weight"}).load_into(dst, {"weight": torch.nested.nested_tensor([torch.ones(4)])})
    assert torch.equal(dst.weight, before)


@pytest.mark.parametrize("change", [lambda t: t.to_sparse(), lambda t: t.to(torch.float8_e4m3fn)], ids=["sparse", "fp8"])
def test_two_equal_sets_of_odd_kinds_are_one(change: Callable[[Tensor], Tensor]) -> None:
    src, dst = nn.Linear(4, 3), nn.Linear(4, 3)
    state = {key: change(value) for key, value in src.state_dict().items()}
    fxmap.load(dst, {"a": state, "b": dict(state)})
    assert torch.equal(dst.weight, change(src.weight.detach()).to_dense().float())
