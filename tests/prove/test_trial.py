"""The proof: no near miss is called proven, the first divergence is where it is, and the models stay as they are."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.models import ResNet, shufflenet_v2_x0_5
from torchvision.models.resnet import BasicBlock

import fxmap
from fxmap.expressions.base import Expression, Source
from fxmap.expressions.layout import Gather
from fxmap.mapping.key_mapping import KeyMapping
from fxmap.mapping.proof import Status
from fxmap.testing.planted import planted_pair, randomised


def _resnet(classes: int = 5) -> nn.Module:
    return ResNet(BasicBlock, [1, 1, 1, 1], num_classes=classes)


def _pair() -> tuple[nn.Module, nn.Module]:
    return randomised(_resnet(), 1).eval(), randomised(_resnet(), 2).eval()


def _identity(model: nn.Module) -> dict[str, Any]:
    return {key: Source(key) for key in model.state_dict()}


def test_the_right_mapping_by_hand_is_proven() -> None:
    src, dst = _pair()
    proof = fxmap.verify(src, dst, _identity(dst))
    assert proof.ok
    assert proof.divergence is None
    # The audit's are on small maps; two ask whether batch counters are inert, and six give both models zeros.
    assert proof.forwards <= 44
    assert proof.status("conv1.weight") is Status.PROVEN
    assert proof.status("bn1.num_batches_tracked") is Status.INERT


@pytest.mark.parametrize(
    ("one", "other", "where"),
    [
        ("layer1.0.conv1.weight", "layer1.0.conv2.weight", "layer1.0.conv1"),
        ("layer4.0.bn1.weight", "layer4.0.bn2.weight", "layer4.0.bn1"),
        ("bn1.weight", "bn1.bias", "bn1"),
        ("layer4.0.bn2.running_mean", "layer4.0.bn2.bias", "layer4.0.bn2"),
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
        (_change("layer4.0.conv2", stride=(2, 2), padding=(3, 3)), "layer4.0.conv2", "padding"),
        (_change("layer2.0.conv2", dilation=(2, 2), padding=(2, 2)), "layer2.0.conv2", "dilation"),
        (_change("layer1.0.bn1", eps=1e-3), "layer1.0.bn1", "eps"),
        (_change("bn1", eps=1.0001e-5), "bn1", "eps"),
        (_replace("layer1.0.relu", nn.GELU()), "layer1.0", "gelu against relu"),
        (_replace("layer1.0.relu", nn.ReLU6()), "layer1.0", "hardtanh against relu"),
        (_replace("layer4.0.relu", nn.Hardtanh(0, 1e9)), "layer4.0", "hardtanh against relu"),
        (_replace("maxpool", nn.AvgPool2d(3, 2, 1)), "", ""),
        (_replace("maxpool", nn.MaxPool2d(3, 2, 1, ceil_mode=True)), "maxpool", "ceil_mode"),
        (_replace("relu", nn.Identity()), "", ""),
    ],
)
def test_a_changed_attribute_is_never_proven(change: Callable[[nn.Module], None], where: str, attribute: str) -> None:
    src, dst = _pair()
    change(dst)
    mapping = fxmap.auto_map(src, dst)
    assert not mapping.proof.ok, str(mapping)
    if attribute:
        assert mapping.proof.divergence is not None, str(mapping)
        assert mapping.proof.divergence.dst.startswith(where)
        assert attribute in mapping.proof.divergence.attribute


def test_what_lies_before_a_difference_is_proven_and_what_lies_behind_it_is_matched() -> None:
    src, dst = _pair()
    vars(dst.get_submodule("layer2.0.conv1"))["stride"] = (1, 1)
    vars(dst.get_submodule("layer2.0.conv1"))["stride"] = (2, 2)
    dst.get_submodule("layer2.0").relu = nn.ReLU6()
    mapping = fxmap.auto_map(src, dst)
    assert not mapping.proof.ok
    behind = ("layer2.0.conv2", "layer2.0.bn2", "layer3", "layer4", "fc")
    for key in [key for key in mapping if "num_batches" not in key]:
        assert mapping.status(key) is (Status.MATCHED if key.startswith(behind) else Status.PROVEN), key
    assert "layer2.0" in str(mapping.proof.divergence)
    assert "matched, not proven" in str(mapping.proof)


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
    assert fxmap.auto_map(src, dst, verify="required").proof.ok
    dst.get_submodule("layer1.0").relu = nn.ReLU6()
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
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() is torch.float32
    assert all(parameter.requires_grad and parameter.grad is None for parameter in dst.parameters())
    handle.remove()


class Counting(nn.Module):
    """A model whose forward writes into its buffers, in eval mode too."""

    def __init__(self, traceable: bool) -> None:
        super().__init__()
        self.fc, self.traceable = nn.Linear(4, 4), traceable
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("hidden", torch.zeros(()), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for buffer in (self.calls, self.steps, self.hidden):
            buffer.add_(1)
        return self.fc(x) if self.traceable or bool(x.sum() < 1e9) else x


@pytest.mark.parametrize("traceable", [True, False])
def test_buffers_that_a_model_writes_are_put_back(traceable: bool) -> None:
    src, dst = Counting(traceable), Counting(traceable)
    state = torch.get_rng_state()
    fxmap.auto_map(src, dst, example_inputs=torch.randn(3, 4, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(state, torch.get_rng_state())
    for model in (src, dst):
        assert [float(buffer) for buffer in model.buffers()] == [0.0, 0.0, 0.0]


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
    assert fxmap.auto_map(src, dst, example_inputs=torch.randn(2, 3, 7, 9)).proof.ok


def test_symmetric_branches_are_tied() -> None:
    class Twins(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.left(x)) + torch.relu(self.right(x))

    mapping = fxmap.auto_map(randomised(Twins(), 1), Twins())
    assert mapping.proof.ok
    assert {mapping.status(key) for key in mapping} == {Status.TIED}
    assert mapping.renames == {key: key for key in mapping}


def test_a_replaced_head_leaves_the_body_proven_and_is_named() -> None:
    src, dst = randomised(_resnet(5), 1), randomised(_resnet(3), 2)
    mapping = fxmap.auto_map(src, dst)
    assert not mapping.proof.ok
    assert "fc.weight" in mapping.proof.reason
    assert mapping.proof.divergence is not None
    assert mapping.proof.divergence.dst == "fc (linear)"
    body = [key for key in mapping if "num_batches" not in key]
    assert {mapping.status(key) for key in body} == {Status.PROVEN}
    assert {key for key in dst.state_dict() if mapping.status(key) is Status.MISMATCHED} == {"fc.weight", "fc.bias"}


def test_what_lies_behind_a_value_of_another_shape_is_matched() -> None:
    src, dst = _pair()
    vars(dst.get_submodule("maxpool"))["stride"] = 1
    mapping = fxmap.auto_map(src, dst)
    assert not mapping.proof.ok
    assert "maxpool (max_pool): stride 1 against 2" in str(mapping.proof.divergence)
    before = ("conv1", "bn1")
    for key in [key for key in mapping if "num_batches" not in key]:
        assert mapping.status(key) is (Status.PROVEN if key.startswith(before) else Status.MATCHED), key


class Embedded(nn.Module):
    def __init__(self, clamped: float = 0.0) -> None:
        super().__init__()
        self.embed, self.fc, self.clamped = nn.Embedding(3000, 8), nn.Linear(8, 8), clamped

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.fc(self.embed(tokens))
        if self.clamped:
            x = x.clamp(-self.clamped, self.clamped)
        return torch.tanh(x).mean(1)


def test_rows_that_no_input_selects_are_not_proven() -> None:
    src, dst = randomised(Embedded(), 1), randomised(Embedded(), 2)
    rows = list(range(3000))
    tokens = torch.tensor([[1, 2, 3, 4]])
    rows[2400], rows[2401] = 2401, 2400
    mapping = _identity(dst) | {"embed.weight": Gather(Source("embed.weight"), tuple(rows))}
    proof = fxmap.verify(src, dst, mapping, example_inputs=tokens)
    assert not proof.ok
    assert proof.status("embed.weight") is Status.MATCHED
    # No input selects them, or one that the audit drew does.
    assert "do not reach all of embed.weight" in proof.reason or "own code differs" in proof.reason
    assert fxmap.verify(src, dst, _identity(dst), example_inputs=tokens).ok


def test_a_piece_that_no_input_reaches_is_no_proof() -> None:
    src, dst = randomised(Embedded(), 1), randomised(Embedded(1e6), 2)
    for one, other in ((src, dst), (dst, src)):
        proof = fxmap.verify(one, other, _identity(dst))
        assert not proof.ok
        assert proof.error == 0.0
        assert proof.divergence is not None
        assert "clamp without a counterpart" in proof.divergence.attribute


class Returning(nn.Module):
    def __init__(self, *names: str) -> None:
        super().__init__()
        self.body, self.head, self.names = nn.Linear(6, 6), nn.Linear(6, 6), names

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        hidden = torch.tanh(self.body(x))
        found = {"logits": self.head(hidden), "hidden": hidden}
        return tuple(found[name] for name in self.names)


@pytest.mark.parametrize(
    ("ours", "theirs", "ok"),
    [
        (("logits", "hidden"), ("logits",), True),
        (("hidden", "logits"), ("logits",), True),
        (("logits",), ("hidden", "logits"), True),
        (("logits",), ("hidden",), False),
    ],
)
def test_several_outputs_against_one(ours: tuple[str, ...], theirs: tuple[str, ...], ok: bool) -> None:
    src, dst = randomised(Returning(*ours), 1), randomised(Returning(*theirs), 2)
    proof = fxmap.verify(src, dst, _identity(dst))
    assert proof.ok is ok, str(proof)
    if len(ours) != len(theirs):
        assert f"the source returns {len(ours)} tensors, the destination {len(theirs)}" in str(proof)


def test_a_recorded_run_is_proven_on_other_sizes_where_the_models_accept_them() -> None:
    class Looping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            # Control flow that symbolic tracing cannot follow.
            return self.conv(x).mean((2, 3)) if x.shape[2] > 2 and bool(x.sum() < 1e9) else self.conv(x).sum((2, 3))

    src, dst = randomised(Looping(), 1), Looping()
    proof = fxmap.verify(src, dst, _identity(dst), example_inputs=torch.randn(1, 3, 8, 8))
    assert proof.ok, str(proof)
    assert proof.inputs == ("1x3x8x8", "1x3x8x8 (other values)")
    assert len({text.partition(" ")[0] for text in proof.scope.ran}) > 3


def test_keys_that_do_not_exist_are_named_with_the_closest() -> None:
    src, dst = _pair()
    with pytest.raises(fxmap.MappingError, match=r"conv1\.wieght: no key of the destination.*closest is conv1\.weight"):
        fxmap.verify(src, dst, {"conv1.wieght": "conv1.weight"})
    with pytest.raises(fxmap.MappingError, match=r"bn1\.var: no key of the source"):
        fxmap.verify(src, dst, {"bn1.running_var": "bn1.var"})


def test_an_int8_destination_is_proven_on_its_twin_and_its_loss_is_told() -> None:
    src = randomised(nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4)), 1)
    dst = torch.ao.quantization.quantize_dynamic(randomised(nn.Sequential(*map(_fresh, src)), 2), {nn.Linear})
    mapping = fxmap.auto_map(src, dst)
    before = fxmap.verify(src, dst, mapping)
    assert before.ok, str(before)
    assert before.sqnr is None
    mapping.load_into(dst, src.state_dict())
    after = fxmap.verify(src, dst, mapping)
    assert after.sqnr is not None
    assert 20 < after.sqnr < 80
    assert "dB signal to noise" in str(after)


def _fresh(module: nn.Module) -> nn.Module:
    return nn.Linear(module.in_features, module.out_features) if isinstance(module, nn.Linear) else type(module)()


def _outputs(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model.double()(x)
    return result


@given(seed=st.integers(0, 10**6), data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_mapping_with_one_planted_error_is_never_proven(seed: int, data: st.DataObject) -> None:
    src, dst, _ = planted_pair(seed)
    right = fxmap.auto_map(src, dst, verify=False)
    keys = [key for key in right if "num_batches" not in key]
    shapes = {key: tuple(dst.state_dict()[key].shape) for key in keys}
    one = data.draw(st.sampled_from(keys))
    alike = [key for key in keys if shapes[key] == shapes[one] and key != one]
    wrong: dict[str, Expression] = dict(right)
    kind = data.draw(st.sampled_from(["other source", "rows", "left out"]))
    if kind == "other source" and alike:
        wrong[one] = right[data.draw(st.sampled_from(alike))]
    elif kind == "rows" and shapes[one][0] > 1:
        wrong[one] = Gather(right[one], (1, 0, *range(2, shapes[one][0])))
    else:
        del wrong[one]
    proof = fxmap.verify(src, dst, wrong)

    # What the error does is for two models to show, on an input of a size that the proof never saw.
    state = dst.double().state_dict() | {k: e.evaluate(src.double().state_dict()) for k, e in wrong.items()}
    dst.load_state_dict(state)
    x = torch.randn(2, 3, 21, 17, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    expected, actual = _outputs(src, x), _outputs(dst, x)
    if float((expected - actual).abs().max()) > 1e-9 * float(expected.abs().max()):
        assert not proof.ok, f"{kind} {one}: {proof}"
        assert proof.status(one) not in (Status.PROVEN, Status.TIED)
        assert proof.divergence is not None
