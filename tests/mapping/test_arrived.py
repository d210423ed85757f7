"""A destination whose own code changes what is loaded does not hold it without a word."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxmap

X = torch.randn(2, 4)


class Hooked(nn.Module):
    """A linear layer that `change` gets hold of while it is loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.l = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.l(x)
        return y


def before() -> nn.Module:
    def hook(state: dict[str, Tensor], prefix: str, *_: Any) -> None:
        state[f"{prefix}l.weight"] = state[f"{prefix}l.weight"] * 2

    model = Hooked()
    model._register_load_state_dict_pre_hook(hook)
    return model


def before_in_place() -> nn.Module:
    def hook(state: dict[str, Tensor], prefix: str, *_: Any) -> None:
        state[f"{prefix}l.weight"].mul_(2)

    model = Hooked()
    model._register_load_state_dict_pre_hook(hook)
    return model


def after() -> nn.Module:
    def hook(module: nn.Module, _: Any) -> None:
        with torch.no_grad():
            module.l.weight.mul_(2)

    model = Hooked()
    model.register_load_state_dict_post_hook(hook)
    return model


class Overridden(Hooked):
    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        args[0][f"{args[1]}l.weight"] = args[0][f"{args[1]}l.weight"] * 2


@pytest.mark.parametrize("make", [before, before_in_place, after, Overridden])
def test_code_that_changes_proven_values_is_refused_and_all_is_put_back(make: Callable[[], nn.Module]) -> None:
    src, dst = Hooked(), make()
    held, given = ({key: value.clone() for key, value in model.state_dict().items()} for model in (dst, src))
    with pytest.raises(fxmap.LoadError, match=r"l\.weight: a load hook .* its old values again"):
        fxmap.transfer(src, dst, example_inputs=X)
    assert all(torch.equal(value, held[key]) for key, value in dst.state_dict().items())
    assert all(torch.equal(value, given[key]) for key, value in src.state_dict().items())
    with pytest.warns(fxmap.ProofWarning, match=r"l\.weight: a load hook"):
        fxmap.KeyMapping({"l.weight": "l.weight", "l.bias": "l.bias"}).load_into(dst, src.state_dict())


def test_code_that_changes_nothing_is_let_through() -> None:
    seen: list[str] = []
    dst = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    dst._register_load_state_dict_pre_hook(lambda state, *_: seen.extend(state))
    nn.utils.parametrizations.weight_norm(dst[0])
    src = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    nn.utils.parametrizations.weight_norm(src[0])
    assert fxmap.transfer(src, dst, example_inputs=X).ok
    assert seen
    assert torch.allclose(src.eval()(X), dst.eval()(X))
