"""The proof: no near miss is called proven, the first divergence is where it is, and the models stay as they are."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models import resnet18, shufflenet_v2_x0_5

import fxmap
from fxmap.expressions import Source
from fxmap.mapping import KeyMapping
from fxmap.proof import Status
from tests.networks import randomised


def _pair() -> tuple[nn.Module, nn.Module]:
    return randomised(resnet18(num_classes=5), 1).eval(), randomised(resnet18(num_classes=5), 2).eval()


def _identity(model: nn.Module) -> dict[str, Any]:
    return {key: Source(key) for key in model.state_dict()}


def test_the_right_mapping_by_hand_is_proven() -> None:
    src, dst = _pair()
    proof = fxmap.verify(src, dst, _identity(dst))
    assert proof.ok
    assert proof.divergence is None
    assert proof.forwards <= 6
    assert proof.status("conv1.weight") is Status.PROVEN
    assert proof.status("bn1.num_batches_tracked") is Status.INERT


@pytest.mark.parametrize(
    ("one", "other", "where"),
    [
        ("layer1.0.conv1.weight", "layer1.0.conv2.weight", "layer1.0.conv1"),
        ("layer1.0.conv2.weight", "layer1.1.conv2.weight", "layer1.0.conv2"),
        ("bn1.weight", "bn1.bias", "bn1"),
        ("layer4.1.bn2.running_mean", "layer4.1.bn2.bias", "layer4.1.bn2"),
        ("layer3.0.bn1.running_var", "layer3.0.bn2.running_var", "layer3.0.bn1"),
    ],
)
def test_two_swapped_tensors_are_refused_and_located(one: str, other: str, where: str) -> None:
    src, dst = _pair()
    mapping = _identity(dst) | {one: Source(other), other: Source(one)}
    proof = fxmap.verify(src, dst, mapping)
    assert not proof.ok
    assert proof.status(one) is Status.MATCHED
    assert proof.divergence is not None
    assert proof.divergence.dst.startswith(f"{where} (")
    assert proof.error > 1e-6


def _change(path: str, **attributes: Any) -> Callable[[nn.Module], None]:
    def change(model: nn.Module) -> None:
        for name, value in attributes.items():
            setattr(model.get_submodule(path), name, value)

    return change


def _replace(path: str, module: nn.Module) -> Callable[[nn.Module], None]:
    def change(model: nn.Module) -> None:
        owner, _, name = path.rpartition(".")
        setattr(model.get_submodule(owner), name, module)

    return change


@pytest.mark.parametrize(
    ("change", "where", "attribute"),
    [
        (_change("layer4.1.conv1", stride=(2, 2), padding=(4, 4)), "layer4.1.conv1", "padding"),
        (_change("layer2.0.conv2", dilation=(2, 2), padding=(2, 2)), "layer2.0.conv2", "dilation"),
        (_change("layer1.0.bn1", eps=1e-3), "layer1.0.bn1", "eps"),
        (_change("bn1", eps=1.0001e-5), "bn1", "eps"),
        (_replace("layer1.0.relu", nn.GELU()), "layer1.0", "gelu against relu"),
        (_replace("layer1.0.relu", nn.ReLU6()), "layer1.0", "hardtanh against relu"),
        (_replace("layer4.1.relu", nn.Hardtanh(0, 1e9)), "layer4.1", "hardtanh against relu"),
        (_replace("maxpool", nn.AvgPool2d(3, 2, 1)), "", ""),
        (_replace("maxpool", nn.MaxPool2d(3, 2, 1, ceil_mode=True)), "maxpool", "ceil_mode"),
        (_replace("relu", nn.Identity()), "", ""),
    ],
)
def test_a_changed_attribute_is_never_proven(change: Callable[[nn.Module], None], where: str, attribute: str) -> None:
    src, dst = _pair()
    change(dst)
    mapping = fxmap.auto_map(src, dst)
    assert mapping.proof is not None
    assert not mapping.proof.ok, str(mapping)
    if attribute:
        assert mapping.proof.divergence is not None, str(mapping)
        assert mapping.proof.divergence.dst.startswith(where)
        assert attribute in mapping.proof.divergence.attribute


def test_what_lies_before_and_behind_a_difference_is_proven() -> None:
    src, dst = _pair()
    dst.layer2[0].conv1.stride = (1, 1)  # type: ignore[index, union-attr]
    dst.layer2[0].conv1.stride = (2, 2)  # type: ignore[index, union-attr]
    dst.layer2[0].relu = nn.ReLU6()  # type: ignore[index, union-attr]
    mapping = fxmap.auto_map(src, dst)
    assert mapping.proof is not None
    assert not mapping.proof.ok
    read = [key for key in mapping if "num_batches" not in key]
    assert {mapping.status(key) for key in read} == {Status.PROVEN}
    assert "layer2.0" in str(mapping.proof.divergence)


def test_missing_keys_are_not_proven() -> None:
    src, dst = _pair()
    mapping = _identity(dst)
    del mapping["layer3.0.conv1.weight"]
    proof = fxmap.verify(src, dst, mapping)
    assert not proof.ok


def test_a_mapping_read_from_json_is_proven() -> None:
    src, dst = _pair()
    mapping = KeyMapping.from_json(fxmap.auto_map(src, dst, verify=False).to_json())
    assert fxmap.verify(src, dst, mapping).ok


def test_a_wrong_shape_says_so() -> None:
    src, dst = _pair()
    proof = fxmap.verify(src, dst, _identity(dst) | {"conv1.weight": Source("fc.weight")})
    assert not proof.ok
    assert "conv1.weight" in str(proof)


def test_required_raises_unless_proven() -> None:
    src, dst = _pair()
    assert fxmap.auto_map(src, dst, verify="required").proof.ok  # type: ignore[union-attr]
    dst.layer1[0].relu = nn.ReLU6()  # type: ignore[index, union-attr]
    with pytest.raises(fxmap.ProofError, match="hardtanh against relu"):
        fxmap.auto_map(src, dst, verify="required")
    with pytest.raises(fxmap.ProofError, match="without a model"):
        fxmap.auto_map(src.state_dict(), dst, verify="required")


def test_the_models_are_as_they_were() -> None:
    src, dst = randomised(shufflenet_v2_x0_5(), 1).train(), randomised(shufflenet_v2_x0_5(), 2)
    calls: list[str] = []
    handle = dst.fc.register_forward_hook(lambda *_: calls.append("hook"))
    dst.fc.eval()
    before = [{key: value.clone() for key, value in model.state_dict().items()} for model in (src, dst)]
    modes = [[module.training for module in model.modules()] for model in (src, dst)]
    attributes = [[set(vars(module)) for module in model.modules()] for model in (src, dst)]
    state = torch.get_rng_state()
    fxmap.auto_map(src, dst)
    assert torch.equal(state, torch.get_rng_state())
    for model, values, mode, names in zip((src, dst), before, modes, attributes, strict=True):
        assert all(torch.equal(value, model.state_dict()[key]) for key, value in values.items())
        assert [module.training for module in model.modules()] == mode
        assert [set(vars(module)) for module in model.modules()] == names
    assert len(dst.fc._forward_hooks) == 1
    assert all(parameter.requires_grad and parameter.grad is None for parameter in dst.parameters())
    handle.remove()


def test_without_inputs_nothing_is_proven_and_the_report_says_how() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.fc = nn.Linear(4 * 5 * 7, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.conv(x).flatten(1))

    src, dst = randomised(Odd(), 1), Odd()
    mapping = fxmap.auto_map(src, dst)
    assert len(mapping) == 4
    assert {mapping.status(key) for key in mapping} == {Status.MATCHED}
    assert "example_inputs" in str(mapping)
    assert fxmap.auto_map(src, dst, example_inputs=torch.randn(2, 3, 7, 9)).proof.ok  # type: ignore[union-attr]


def test_symmetric_branches_are_tied() -> None:
    class Twins(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.left(x)) + torch.relu(self.right(x))

    mapping = fxmap.auto_map(randomised(Twins(), 1), Twins())
    assert mapping.proof is not None
    assert mapping.proof.ok
    assert {mapping.status(key) for key in mapping} == {Status.TIED}
    assert mapping.renames == {key: key for key in mapping}
