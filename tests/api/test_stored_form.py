"""A source that stores another form of a tensor than its code reads: what the code reads is loaded, or nothing."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxmap
from fxmap.api.stored_form import stored_otherwise

X = torch.randn(2, 4)


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.b(torch.tanh(self.a(x)))
        return y


def doubled() -> nn.Module:
    def store(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
        state[f"{prefix}a.weight"] = state[f"{prefix}a.weight"] * 2

    def load(state: dict[str, Any], prefix: str, *_: Any) -> None:
        state[f"{prefix}a.weight"] = state[f"{prefix}a.weight"] / 2

    model = Plain()
    model._register_state_dict_hook(store)
    model._register_load_state_dict_pre_hook(load)
    return model


class Transposed(nn.Linear):
    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = destination[f"{prefix}weight"].T.contiguous()

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        state_dict[f"{prefix}weight"] = state_dict[f"{prefix}weight"].T
        super()._load_from_state_dict(state_dict, prefix, *args)


def transposed() -> nn.Module:
    model = Plain()
    model.a = Transposed(4, 6)
    return model


class Overridden(Plain):
    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        state = super().state_dict(*args, **kwargs)
        state["a.weight"] = state["a.weight"].flip(0)
        return state

    def load_state_dict(self, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
        return super().load_state_dict({**state_dict, "a.weight": state_dict["a.weight"].flip(0)}, *args, **kwargs)


@pytest.mark.parametrize("make", [doubled, transposed, Overridden])
def test_what_the_source_reads_is_loaded_and_the_mapping_of_keys_is_not_called_proven(make: Callable[[], nn.Module]) -> None:
    src, dst = make(), Plain()
    with pytest.warns(fxmap.ProofWarning, match=r"a\.weight: src\.state_dict\(\) stores another form"):
        mapping = fxmap.load(dst, src.state_dict(), src=make(), example_inputs=X)
    assert torch.allclose(dst(X), src(X))
    assert not mapping.proof.ok
    assert mapping.status("a.weight") == "matched"
    assert mapping.status("b.weight") == "proven"


def test_a_source_without_memory_loads_the_file_in_a_copy() -> None:
    trained, dst = doubled(), Plain()
    with torch.device("meta"):
        src = doubled()
    fxmap.load(dst, trained.state_dict(), src=src, example_inputs=X, verify=False)
    assert torch.allclose(dst(X), trained(X))
    assert all(value.is_meta for value in src.state_dict().values())


def test_transfer_takes_what_the_source_reads() -> None:
    src, dst = doubled(), Plain()
    with pytest.warns(fxmap.ProofWarning, match="stores another form"):
        fxmap.transfer(src, dst, example_inputs=X)
    assert torch.allclose(dst(X), src(X))


def test_a_mapping_of_such_a_source_is_not_proven_by_verify_either() -> None:
    proof = fxmap.verify(doubled(), Plain(), {key: key for key in Plain().state_dict()}, X)
    assert not proof.ok
    assert "a.weight: src.state_dict() stores another form" in proof.reason


def test_a_source_that_does_not_load_what_it_stores_is_refused() -> None:
    src = Plain()
    src._register_state_dict_hook(lambda module, state, prefix, _: state.update({"a.bias": state["a.bias"] + 1}))
    with pytest.raises(fxmap.LoadError, match=r"a\.bias: src \(Plain\) stores another form"):
        fxmap.load(Plain(), src.state_dict(), src=src, example_inputs=X)


def test_copies_and_other_dtypes_are_the_same_form() -> None:
    model = Plain()
    model._register_state_dict_hook(lambda module, state, *_: state.update({key: state[key].half() for key in list(state)}))
    assert stored_otherwise(model) == []
    assert stored_otherwise(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))) == []
