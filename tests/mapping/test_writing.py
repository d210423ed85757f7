"""Writing: all or nothing, and sources are read before anything is written."""

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

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
    with pytest.warns(fxmap.ProofWarning, match=r"3 keys .* nothing was made for 0\.bias, 1\.weight, 1\.bias"):
        mapping.load_into(dst, src.state_dict(), on_mismatch="keep")
    assert torch.equal(weight(dst, "0"), weight(src, "0"))


def test_counters_and_tied_keys_need_no_place_in_a_mapping_by_hand() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.BatchNorm1d(4), nn.Linear(4, 4, bias=False))
    model[2].weight = model[0].weight
    keys = [key for key in model.state_dict() if key not in ("2.weight", "1.num_batches_tracked")]
    assert fxmap.KeyMapping({key: key for key in keys}).load_into(model, model.state_dict()).written == len(keys)


class Refusing(nn.Module):
    """A model whose loading fails late, in one of several ways."""

    def __init__(self, fail: Callable[[], None]) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3)
        self.size = 1
        self.last._register_load_state_dict_pre_hook(lambda *_: fail())
        self.fail = fail

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("fxmap calls that of nn.Module")

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.size += 1
        super()._load_from_state_dict(*args, **kwargs)


def _held(model: nn.Module) -> list[Any]:
    tensors = [(key, value.clone()) for key, value in model.state_dict().items()]
    return [tensors, [sorted(vars(module)) for module in model.modules()], getattr(model, "size", None)]


def _same(one: list[Any], other: list[Any]) -> bool:
    values = all(a == b and torch.equal(x, y) for (a, x), (b, y) in zip(one[0], other[0], strict=True))
    return values and one[1:] == other[1:]


def _sources(model: nn.Module) -> dict[str, torch.Tensor]:
    return {key: torch.full_like(value, 7) for key, value in model.state_dict().items()}


@pytest.mark.parametrize("error", [RuntimeError, ZeroDivisionError, KeyError, KeyboardInterrupt, TimeoutError, SystemExit])
def test_a_model_that_refuses_gets_its_values_back_by_another_path(error: type[BaseException]) -> None:
    def fail() -> None:
        raise error("no")  # also while the old values are loaded

    model = Refusing(fail)
    before, objects = _held(model), [id(value) for value in model.parameters()]
    mapping = fxmap.KeyMapping({key: key for key in model.state_dict()})
    expected = fxmap.LoadError if error in (RuntimeError, ZeroDivisionError, KeyError) else error
    with pytest.raises(expected):
        mapping.load_into(model, _sources(model))
    assert _same(before, _held(model))
    assert objects == [id(value) for value in model.parameters()]


class Stubborn(nn.Parameter):
    """A parameter whose copy_ fails from some call on."""

    left = 10**9

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") == "copy_":
            cls.left -= 1
            if cls.left < 0:
                raise RuntimeError("this one is mine")
        return super().__torch_function__(func, types, args, kwargs or {})


def test_a_parameter_that_refuses_copies_is_put_back_without_its_class() -> None:
    model = pair()
    model[1].weight = Stubborn(model[1].weight.detach().clone())
    before = _held(model)
    Stubborn.left = 0
    try:
        with pytest.raises(fxmap.LoadError, match="old values were put back"):
            fxmap.KeyMapping({key: key for key in EXCHANGED}).load_into(model, _sources(model))
    finally:
        Stubborn.left = 10**9
    assert _same(before, _held(model))


@pytest.mark.parametrize("at", range(1, 200, 7))
def test_an_interrupt_while_values_are_put_back_leaves_nothing_half_written(at: int) -> None:
    calls = 0

    def trace(frame: Any, event: str, _: Any) -> None:
        nonlocal calls
        if event == "call" and started:
            calls += 1
            if calls == at:
                raise KeyboardInterrupt

    started: list[bool] = []

    def fail() -> None:
        started.append(True)
        raise RuntimeError("no")

    model = Refusing(fail)
    before = _held(model)
    sys.setprofile(trace)
    try:
        with pytest.raises((fxmap.LoadError, KeyboardInterrupt)):
            fxmap.KeyMapping({key: key for key in model.state_dict()}).load_into(model, _sources(model))
    finally:
        sys.setprofile(None)
    assert _same(before, _held(model))


def test_what_cannot_be_put_back_is_named() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.state = nn.Linear(2, 2), 1

        def get_extra_state(self) -> Any:
            return self.state

        def set_extra_state(self, state: Any) -> None:
            raise RuntimeError("never")

    model = Odd()
    before = model.fc.weight.detach().clone()
    full = {key: torch.zeros(2, 2) if key == "fc.weight" else value for key, value in model.state_dict().items()}
    with pytest.raises(fxmap.LoadError, match=r"_extra_state: could not be put back"):
        fxmap.KeyMapping({"fc.weight": "fc.weight"}).load_into(model, full, on_mismatch="keep", verify=False)
    assert torch.equal(before, model.fc.weight)


def test_an_interrupt_while_tensors_are_assigned_leaves_the_model_as_it_was() -> None:
    class Interrupted(nn.Linear):
        def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
            raise KeyboardInterrupt

    dst = nn.Sequential(nn.Linear(3, 3), Interrupted(3, 3))
    before = {key: value.clone() for key, value in dst.state_dict().items()}
    new = {key: torch.randn_like(value) for key, value in before.items()}
    with pytest.raises(KeyboardInterrupt):
        fxmap.load(dst, new, assign=True)
    assert all(torch.equal(value, before[key]) for key, value in dst.state_dict().items())


class _Places(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("places", torch.zeros(3, dtype=torch.int64))
        self.register_buffer("mask", torch.zeros(3, dtype=torch.bool))
        self.weight = nn.Parameter(torch.zeros(3))


def test_whole_numbers_and_masks_of_another_dtype_are_written_where_they_are_kept() -> None:
    state = {
        "places": torch.tensor([2.0, 0.0, 1.0]),
        "mask": torch.tensor([1, 0, 1], dtype=torch.uint8),
        "weight": torch.ones(3),
    }
    dst = _Places()
    fxmap.KeyMapping({key: key for key in state}).load_into(dst, state)
    own = dst.state_dict()
    assert own["places"].tolist() == [2, 0, 1]
    assert own["mask"].tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("places", torch.tensor([0.5, 0.0, 1.0])),
        ("mask", torch.tensor([2, 0, 1], dtype=torch.uint8)),
        ("weight", torch.tensor([1, 2, 3])),  # perhaps numbers of a quantized weight
    ],
)
def test_numbers_that_another_dtype_changes_are_refused(key: str, value: Tensor) -> None:
    dst = _Places()
    state = dst.state_dict() | {key: value}
    with pytest.raises(fxmap.LoadError, match="the values would change"):
        fxmap.KeyMapping({name: name for name in state}).load_into(dst, state)
