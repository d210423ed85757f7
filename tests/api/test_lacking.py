"""Keys that the source model reads and the file lacks, and those of the file that may be meant."""

import pytest
import torch
from torch import nn

import fxmap


def _net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3)).eval()


def _said(file: dict[str, torch.Tensor]) -> str:
    with pytest.raises(fxmap.LoadError) as caught:
        fxmap.load(_net(), file, src=_net(), verify=False)
    return str(caught.value)


def test_a_typo_in_the_file_is_named_with_the_key_that_is_meant() -> None:
    file = dict(_net().state_dict())
    file["2.wieght"] = file.pop("2.weight")
    text = _said(file)
    assert "reads 1 key that the source lacks: 2.weight is not in the file; 2.wieght, of its shape, is left over" in text
    assert 'state["2.weight"] = state.pop("2.wieght")' in text
    assert "not the model of this file" not in text


def test_one_missing_key_is_no_other_model() -> None:
    file = dict(_net().state_dict())
    del file["2.bias"]
    text = _said(file)
    assert "reads 1 key that the source lacks; it has the other 5 of the 6" in text
    assert "not the model of this file" not in text


def test_most_keys_missing_is_another_model() -> None:
    file = {key: value for key, value in _net().state_dict().items() if key.startswith("0.")}
    assert "reads 4 keys that the source lacks, which has 2 keys: src is not the model of this file" in _said(file)
