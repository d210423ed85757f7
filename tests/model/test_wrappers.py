"""What wrappers do to keys, alone and stacked, on the keys of ResNet-18."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.utils import parametrizations, weight_norm

import fxmap
from fxmap.matching.keys.mapper import map_by_name
from fxmap.model.wrappers import match_prefix, plain, spell

State = dict[str, Tensor]

with torch.device("meta"):
    PLAIN: State = dict(torchvision.models.resnet18(num_classes=5).state_dict())


def prefixed(prefix: str) -> Callable[[State], State]:
    return lambda state: {prefix + key: value for key, value in state.items()}


def blocks_wrapped(name: str) -> Callable[[State], State]:
    """Put a name behind that of every stage, as wrappers of single blocks do."""

    def wrap(state: State) -> State:
        return {
            ".".join(f"{part}.{name}" if part.startswith("layer") else part for part in key.split(".")): value
            for key, value in state.items()
        }

    return wrap


WRAPPERS: dict[str, Callable[[State], State]] = {
    "DataParallel": prefixed("module."),
    "compile": prefixed("_orig_mod."),
    "FSDP": prefixed("_fsdp_wrapped_module."),
    "checkpoint": prefixed("_checkpoint_wrapped_module."),
    "FSDP of blocks": blocks_wrapped("_fsdp_wrapped_module"),
    "checkpoint of blocks": blocks_wrapped("_checkpoint_wrapped_module"),
    "compile of blocks": blocks_wrapped("_orig_mod"),
    "Lightning": prefixed("model."),
    "backbone": prefixed("backbone."),
}
STACKS = [stack for depth in (1, 2, 3) for stack in itertools.permutations(WRAPPERS, depth)]


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("side", ["source", "destination"])
def test_every_stack_on_resnet18(depth: int, side: str) -> None:
    for stack in (stack for stack in STACKS if len(stack) == depth):
        wrapped = PLAIN
        for name in stack:
            wrapped = WRAPPERS[name](wrapped)
        keys = dict(zip(wrapped, PLAIN, strict=True))
        if side == "source":
            mapping = map_by_name(wrapped, PLAIN, "test")
            assert mapping.renames == {theirs: ours for ours, theirs in keys.items()}, stack
        else:
            mapping = map_by_name(PLAIN, wrapped, "test")
            assert mapping.renames == keys, stack
        assert not mapping.missing
        assert not mapping.unexpected
        assert "stripped" in str(mapping) or "added" in str(mapping)


def test_real_wrappers_of_torch() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)))
    keys = list(model.state_dict())
    compiled: Any = torch.compile(nn.Sequential(model[0], checkpoint_wrapper(model[1])))
    wrapped: nn.Module = nn.DataParallel(compiled)
    state = wrapped.state_dict()
    # checkpoint_wrapper takes its own name out of a state dict, and leaves it in named_parameters.
    assert [plain(key) for key in state] == keys
    assert [plain(key) for key, _ in wrapped.named_parameters()] == keys


def test_what_was_done_is_said() -> None:
    assert spell(["module.a.w", "module.b.w"], ["a.w", "b.w"]).note == "stripped 'module.'"
    assert spell(["a.w", "b.w"], ["_orig_mod.a.w", "_orig_mod.b.w"]).note == "added '_orig_mod.'"
    assert spell(["a._checkpoint_wrapped_module.w"], ["a.w"]).note == "stripped '_checkpoint_wrapped_module.'"


def test_averaged_weights_beside_the_raw_ones() -> None:
    state = prefixed("model_ema.")(PLAIN) | prefixed("model.")(PLAIN)
    mapping = map_by_name(state, PLAIN, "test")
    assert mapping.renames["fc.weight"] == "model.fc.weight"
    assert "the same keys are also under 'model_ema.', which are left" in str(mapping)


def test_a_counter_of_swa_does_not_hide_the_prefix() -> None:
    averaged = torch.optim.swa_utils.AveragedModel(nn.Linear(2, 2))
    mapping = map_by_name(averaged.state_dict(), nn.Linear(2, 2).state_dict(), "test")
    assert mapping.renames == {"weight": "module.weight", "bias": "module.bias"}
    assert mapping.unexpected == ["n_averaged"]


def test_a_module_named_module_is_kept() -> None:
    state = {"stage.module.weight": torch.zeros(1), "weight": torch.ones(1)}
    assert match_prefix(state, set(state)) == (state, "")


@pytest.mark.parametrize("newer_first", [True, False])
def test_weight_norm_of_both_styles(newer_first: bool) -> None:
    def old() -> nn.Module:
        with pytest.warns(FutureWarning):
            return nn.Sequential(weight_norm(nn.Conv1d(2, 3, 3)), nn.ReLU())

    def new() -> nn.Module:
        return nn.Sequential(parametrizations.weight_norm(nn.Conv1d(2, 3, 3)), nn.ReLU())

    src, dst = (new(), old()) if newer_first else (old(), new())
    mapping = map_by_name(src.state_dict(), dst.state_dict(), "test")
    assert not mapping.missing
    mapping.load_into(dst, src.state_dict())
    x = torch.randn(1, 2, 8)
    assert torch.equal(src(x), dst(x))


def test_no_root_is_guessed_for_a_layer_that_fits_everywhere() -> None:
    mapping = map_by_name(
        {"a.w": torch.zeros(2), **{f"b{n}.w": torch.zeros(2) for n in range(9)}}, {"w": torch.zeros(2)}, "test"
    )
    assert mapping.missing == ["w"]
    assert "open: no clear choice among" in mapping.knowledge.reasons["w"]


def test_a_wrapped_state_dict_is_loaded_by_a_mapping_of_plain_keys() -> None:
    src, dst = nn.Linear(2, 2), nn.Linear(2, 2)
    mapping = fxmap.KeyMapping({"weight": "weight", "bias": "bias"})
    assert mapping.load_into(dst, nn.DataParallel(src).state_dict()).written == 2
    assert torch.equal(src.weight, dst.weight)
