"""A destination whose own code changes what it is given: no mapping into it is called proven."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxmap
from fxmap.api.loaded_form import changed_by_loading

X = torch.randn(2, 4)


class Plain(nn.Module):
    def __init__(self, first: Callable[[int, int], nn.Module] = nn.Linear) -> None:
        super().__init__()
        self.a, self.b = first(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.b(torch.tanh(self.a(x)))
        return y


class Upgraded(nn.Linear):
    """A layer that turns the rows of a state dict of an older version."""

    _version = 2

    def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: Any, *args: Any) -> None:
        if local_metadata.get("version", 1) < 2:
            state_dict[f"{prefix}weight"] = state_dict[f"{prefix}weight"].flip(0)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)


class Turned(nn.Linear):
    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        state_dict[f"{prefix}weight"] = state_dict[f"{prefix}weight"].flip(0)
        super()._load_from_state_dict(state_dict, prefix, *args)


def halved() -> nn.Module:
    def hook(state: dict[str, Any], prefix: str, *_: Any) -> None:
        state[f"{prefix}a.weight"] = state[f"{prefix}a.weight"] / 2

    model = Plain()
    model._register_load_state_dict_pre_hook(hook)
    return model


def overwritten() -> nn.Module:
    def hook(module: nn.Module, _: Any) -> None:
        nn.init.zeros_(module.get_parameter("a.weight"))

    model = Plain()
    model.register_load_state_dict_post_hook(hook)
    return model


@pytest.mark.parametrize("make", [halved, overwritten, lambda: Plain(Turned)], ids=["pre-hook", "post-hook", "method"])
def test_a_destination_that_changes_what_it_loads_is_not_proven(make: Callable[[], nn.Module]) -> None:
    proof = fxmap.auto_map(Plain(), make(), example_inputs=X).proof
    assert not proof.ok
    assert proof.reason.startswith("a.weight: a load hook or an overridden method of the destination")
    proof = fxmap.verify(Plain(), make(), {key: key for key in Plain().state_dict()}, X)
    assert not proof.ok
    with pytest.raises(fxmap.LoadError, match=r"a\.weight: a load hook"):
        fxmap.transfer(Plain(), make(), example_inputs=X)


@pytest.mark.parametrize("make", [Plain, lambda: Plain(Upgraded)])
def test_a_destination_that_holds_what_it_loads_is_proven(make: Callable[[], nn.Module]) -> None:
    dst = make()
    before = {key: value.clone() for key, value in dst.state_dict().items()}
    assert fxmap.auto_map(Plain(), dst, example_inputs=X).proof.ok
    assert all(torch.equal(value, before[key]) for key, value in dst.state_dict().items())


def test_a_hook_that_adds_keys_or_does_not_load_says_nothing() -> None:
    model = Plain()
    model._register_load_state_dict_pre_hook(lambda state, prefix, *_: state.setdefault(f"{prefix}steps", torch.zeros(())))
    assert changed_by_loading(model, model.state_dict().keys()) == []
    model._register_load_state_dict_pre_hook(lambda *_: 1 // 0)
    assert changed_by_loading(model, model.state_dict().keys()) == []
