"""Arguments of another kind are refused by their names."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fxmap

ANY: Any = nn.Linear(1, 1)
MAPPING = fxmap.KeyMapping({"weight": "weight", "bias": "bias"})


def state() -> dict[str, torch.Tensor]:
    return dict(nn.Linear(2, 2).state_dict())


CALLS: dict[str, tuple[Callable[[], object], str]] = {
    "into": (lambda: fxmap.transfer(nn.Linear(2, 2), nn.Linear(2, 2), into=ANY), "into is the dotted path of a submodule"),
    "weights": (lambda: fxmap.load(nn.Linear(2, 2), state(), weights=ANY), "weights is the name of a set of weights"),
    "like": (lambda: MAPPING.apply(state(), like=ANY), "like: state_dict is a mapping"),
    "pattern": (lambda: MAPPING.select(ANY), r"a pattern is a key, or has \* for any text, not a Linear"),
    "page": (lambda: MAPPING.to_html(ANY), "path is that of a file, not a Linear"),
    "verify": (lambda: fxmap.auto_map(ANY, ANY, verify=np.ones(2)), "verify is True, False"),  # type: ignore[arg-type]
    "verify of load": (lambda: fxmap.load(ANY, state(), verify=torch.ones(2)), "verify is True, False"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", CALLS)
def test_an_argument_of_another_kind_is_refused_by_its_name(name: str) -> None:
    call, words = CALLS[name]
    with pytest.raises(fxmap.ArgumentError, match=words):
        call()


@pytest.mark.parametrize(("name", "value"), [("shard_size", "5GB"), ("shard_size", True), ("output", None)])
def test_arguments_of_convert_are_refused_by_their_names(name: str, value: Any, tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "a.pth")
    given = {"output": tmp_path / "out", name: value}
    with pytest.raises(fxmap.ArgumentError, match=name):
        fxmap.convert(tmp_path / "a.pth", dst=nn.Linear(2, 2), **given)


def test_keys_that_are_no_text_are_no_source() -> None:
    with pytest.raises(fxmap.MappingError, match="weight: not in the source state dict"):
        MAPPING.apply({1: 2})  # type: ignore[dict-item]


def test_a_matrix_that_is_flat_in_the_file_is_refused_by_its_shape() -> None:
    flat = {"weight": torch.ones(4), "bias": torch.ones(2)}
    dst = nn.Linear(2, 2)
    with pytest.raises(fxmap.LoadError, match=r"weight.*\[4\]"):
        fxmap.load(dst, flat, src=nn.Linear(2, 2), verify=False)
