"""The recorded run: what symbolic tracing refuses, inputs of every kind, and errors that name the place."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import vision_transformer

import fxmap
from fxmap.capture.symbolic import trace
from fxmap.model.replica import replicate
from fxmap.testing.planted import randomised


class Branching(nn.Module):
    """Looks at a value, writes in place, takes keyword arguments and returns a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 6), nn.Linear(6, 3)
        self.register_buffer("table", torch.arange(6.0) + 1, persistent=False)

    def forward(self, x: Tensor, *, shift: Tensor | None = None) -> dict[str, Tensor]:
        y = self.one(x)
        if float(y.abs().max()) < 0:
            raise ValueError("never")
        y = y.relu_() * self.table
        y[:, 0] = 0.5
        if shift is not None:
            y = y + shift
        return {"out": self.two(y), "hidden": y}


def test_a_model_that_looks_at_values_is_recorded() -> None:
    src, dst = randomised(Branching(), 1), randomised(Branching(), 2)
    mapping = fxmap.auto_map(src, dst, example_inputs={"x": torch.randn(5, 4), "shift": torch.randn(5, 6)})
    assert mapping.knowledge.rungs == ("recorded run", "recorded run")
    assert mapping.proof.ok, str(mapping)
    assert "recorded run" in str(mapping)


def test_other_inputs_for_the_destination() -> None:
    class Named(Branching):
        def forward(self, values: Tensor, moved: Tensor) -> Any:  # type: ignore[override]
            return super().forward(values, shift=moved)

    x, shift = torch.randn(5, 4), torch.randn(5, 6)
    src, dst = randomised(Branching(), 1), randomised(Named(), 2)
    mapping = fxmap.auto_map(src, dst, example_inputs={"x": x, "shift": shift}, dst_inputs=(x, shift))
    assert mapping.renames == {key: key for key in dst.state_dict()}


def test_a_function_in_the_place_of_forward() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(4, 6), nn.Linear(6, 2)

        def encode(self, x: Tensor) -> Tensor:
            return self.body(x).tanh()

    src, dst = randomised(Encoder(), 1), randomised(Encoder(), 2)
    run = lambda model, x: model.encode(x)  # noqa: E731
    mapping = fxmap.auto_map(src, dst, example_inputs=torch.randn(3, 4), src_forward=run, dst_forward=run)
    assert mapping.renames["body.weight"] == "body.weight"
    assert mapping.status("body.weight") is fxmap.Status.PROVEN
    with pytest.raises(ValueError, match="need example_inputs"):
        fxmap.auto_map(src, dst, src_forward=run)


def test_torchvisions_vit_without_any_inputs() -> None:
    def build() -> nn.Module:
        return vision_transformer.VisionTransformer(
            image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=5
        )

    src, dst = randomised(build(), 1).eval(), build().eval()
    mapping = fxmap.auto_map(src, dst)
    assert mapping.proof.ok, str(mapping)
    assert mapping.renames == {key: key for key in dst.state_dict() if "in_proj" not in key} | {
        key: key for key in mapping.renames if "in_proj" in key
    }
    mapping.load_into(dst, src.state_dict())
    x = torch.randn(1, 3, 32, 32)
    assert torch.allclose(src(x), dst(x), atol=1e-5)


def test_what_does_not_run_is_mapped_by_name_and_says_why() -> None:
    class Refuses(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            if x.sum() > 0:
                raise RuntimeError("not today")
            raise RuntimeError("nor tomorrow")

    mapping = fxmap.auto_map(Refuses(), Refuses(), example_inputs=torch.ones(1, 2))
    assert mapping.status("fc.weight") is fxmap.Status.GUESSED
    assert "not today" in str(mapping)
    assert "test_recorded.py:" in str(mapping)


def test_the_model_is_as_it_was() -> None:
    model = randomised(Branching(), 1).train()
    before = copy.deepcopy(model)
    fast = torch.backends.mha.get_fastpath_enabled()
    fxmap.auto_map(model, randomised(Branching(), 2), example_inputs=torch.randn(5, 4))
    assert model.training
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.state_dict().items())
    assert torch.backends.mha.get_fastpath_enabled() == fast


def test_replica_runs_its_own_code_where_forward_is_an_attribute() -> None:
    class Switched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(2, 2)
            self.forward = self.other

        def other(self, x: Tensor) -> Tensor:
            return self.fc(x)

    model = Switched()
    twin = replicate(model)
    twin.fc = nn.Identity()
    x = torch.ones(1, 2)
    assert torch.equal(twin(x), x)
    assert not torch.equal(model(x), x)


def test_a_symbolic_trace_reads_every_tensor_as_a_node() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    targets = {str(node.target) for node in trace(replicate(model)).graph.nodes if node.op == "get_attr"}
    assert targets == {key for key in model.state_dict() if "num_batches" not in key}


def test_what_cannot_be_traced_is_named_by_file_and_line() -> None:
    class Looking(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if float(x.sum()) > 0 else -x

    with pytest.raises(fxmap.CaptureError, match=r"test_recorded\.py:\d+"):
        trace(replicate(Looking()))


class Shrinking(nn.Module):
    """As Swin in some libraries: the window is shrunk to a small map, and stays so."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.window = nn.Conv2d(1, 2, 3, padding=1), 8

    def forward(self, x: Tensor) -> Tensor:
        self.window = min(self.window, x.shape[-1])
        return self.layer(x)[..., : self.window].mean((2, 3))


class AlsoShrinking(Shrinking):
    def forward(self, x: Tensor) -> Tensor:
        self.window, _ = sorted((self.window, x.shape[-1]))
        return self.layer(x)[..., : self.window].mean((2, 3))


class Fixed(Shrinking):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[..., : self.window].mean((2, 3))


def test_what_a_model_notes_of_the_size_of_its_input_is_forgotten() -> None:
    src, dst = randomised(AlsoShrinking(), 1), randomised(Shrinking(), 2)
    mapping = fxmap.auto_map(src, dst, example_inputs=torch.randn(1, 1, 7, 7))
    assert any(text.startswith("2x1x9x9") for text in mapping.proof.scope.ran), mapping.proof.scope
    assert mapping.proof.ok, str(mapping)
    assert src.window == 8
    assert dst.window == 8


def test_a_model_whose_answer_depends_on_earlier_calls_is_not_one_that_forgets_them() -> None:
    src, dst = randomised(Fixed(), 1), randomised(Shrinking(), 2)
    proof = fxmap.auto_map(src, dst, example_inputs=torch.randn(1, 1, 7, 7)).proof
    assert not proof.ok
    assert "after" in proof.reason, proof.reason
    assert dst.window == 8
