"""Writing: all or nothing, and sources are read before anything is written."""

import pytest
import torch
from torch import nn

import fxmap


def weight(model: nn.Module, path: str) -> torch.Tensor:
    value: torch.Tensor = model.state_dict()[f"{path}.weight"]
    return value


def pair() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))


EXCHANGED = {"0.weight": "1.weight", "0.bias": "1.bias", "1.weight": "0.weight", "1.bias": "0.bias"}


def test_exchanged_keys_of_one_model_are_read_before_they_are_written() -> None:
    model = pair()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    fxmap.KeyMapping(EXCHANGED).load_into(model, model.state_dict())
    assert all(torch.equal(model.state_dict()[key], before[source]) for key, source in EXCHANGED.items())


def test_models_that_share_modules() -> None:
    src = pair()
    dst = nn.Sequential(src[1], src[0])
    before = {key: value.clone() for key, value in src.state_dict().items()}
    same = {key: key for key in EXCHANGED}
    fxmap.KeyMapping(same).load_into(dst, src.state_dict())
    assert all(torch.equal(dst.state_dict()[key], before[key]) for key in same)


def test_slices_of_one_s_own_tensor() -> None:
    model = nn.Linear(4, 4, bias=False)
    before = model.weight.detach().clone()
    made = fxmap.KeyMapping({"weight": "weight"}).apply({"weight": model.weight.detach().flip(0)})
    fxmap.KeyMapping({"weight": "weight"}).load_into(model, made)
    assert torch.equal(model.weight, before.flip(0))


def test_a_mapping_by_hand_that_covers_one_of_four_keys_is_refused() -> None:
    src, dst = pair(), pair()
    before = weight(dst, "0").clone()
    mapping = fxmap.KeyMapping({"0.weight": "0.weight"})
    with pytest.raises(fxmap.LoadError, match=r"0\.bias, 1\.weight, 1\.bias: .*1 of 4 keys are mapped; nothing was written"):
        mapping.load_into(dst, src.state_dict())
    assert torch.equal(weight(dst, "0"), before)
    mapping.load_into(dst, src.state_dict(), on_mismatch="keep")
    assert torch.equal(weight(dst, "0"), weight(src, "0"))


def test_counters_and_tied_keys_need_no_place_in_a_mapping_by_hand() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.BatchNorm1d(4), nn.Linear(4, 4, bias=False))
    model[2].weight = model[0].weight
    keys = [key for key in model.state_dict() if key not in ("2.weight", "1.num_batches_tracked")]
    assert fxmap.KeyMapping({key: key for key in keys}).load_into(model, model.state_dict()).written == len(keys)
