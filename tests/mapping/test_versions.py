"""What `apply` makes has the form of the destination as it is: no module takes it for a state dict of an older version."""

from typing import Any

import torch
from torch import nn

import fxmap
from fxmap.mapping.under import under


class Upgraded(nn.Linear):
    """A layer whose first version stored its rows the other way round."""

    _version = 2

    def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: Any, *args: Any) -> None:
        if (local_metadata.get("version") or 1) < 2:
            state_dict[f"{prefix}weight"] = state_dict[f"{prefix}weight"].flip(0)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)


def test_what_apply_makes_is_loaded_by_torch_without_an_upgrade() -> None:
    src, dst = nn.Sequential(nn.Linear(4, 3)), nn.Sequential(Upgraded(4, 3))
    mapping = fxmap.auto_map(src, dst, example_inputs=torch.randn(2, 4), verify=False)
    for one in (mapping, fxmap.KeyMapping.from_json(mapping.to_json())):
        dst.load_state_dict(one.apply(src.state_dict()))
        assert torch.equal(dst.state_dict()["0.weight"], src.state_dict()["0.weight"])


def test_versions_go_along_into_a_larger_model() -> None:
    src, dst = nn.Linear(4, 3), nn.Sequential(Upgraded(4, 3))
    mapping = fxmap.auto_map(src, dst[0], example_inputs=torch.randn(2, 4), verify=False)
    dst.load_state_dict(under(mapping, "0.", dst.state_dict()).apply(src.state_dict()))
    assert torch.equal(dst.state_dict()["0.weight"], src.weight)


def test_a_mapping_by_hand_says_nothing_of_versions() -> None:
    assert not hasattr(fxmap.KeyMapping({"a": "b"}).apply({"b": torch.ones(1)}), "_metadata")
