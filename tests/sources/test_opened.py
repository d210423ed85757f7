"""Exported programs and TorchScript as sources."""

import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import fxmap
from fxmap.sources.opened import opened
from fxmap.sources.scripted import ScriptedModel
from fxmap.testing.planted import randomised


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(torch.relu(self.norm(self.a(x))).mean((2, 3)))
        return out


X = torch.randn(2, 3, 12, 12)


def test_an_exported_program_is_loaded_and_proven_as_an_object_and_as_a_file(tmp_path: Path) -> None:
    src = randomised(Net(), 1).eval()
    program = torch.export.export(src, (X,))
    torch.export.save(program, tmp_path / "net.pt2")
    for source in (program, tmp_path / "net.pt2"):
        dst = randomised(Net(), 2).eval()
        mapping = fxmap.load(dst, source)
        assert mapping.ok
        with torch.no_grad():
            assert torch.allclose(src(X), dst(X), atol=1e-5)


class Same(nn.Module):
    """Padding that depends on the extents, as layers of TensorFlow's kind have it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        extra = 1 if x.shape[-1] % 4 == 0 else 2
        out: Tensor = self.conv(nn.functional.pad(x, (1, extra, 1, extra))).mean((2, 3))
        return out


def test_a_program_is_proven_for_the_extents_that_it_was_exported_for() -> None:
    program = torch.export.export(Same().eval(), (X,))
    mapping = fxmap.auto_map(program, Same().eval())
    assert mapping.ok
    assert "2x3x12x12" in str(mapping.proof.scope)
    with pytest.raises(ValueError, match=r"exported for the shape \[2, 3, 12, 12\], not \[2, 3, 13, 13\]"):
        opened(program).model(torch.ones(2, 3, 13, 13))


@pytest.mark.parametrize("compiled", ["scripted", "traced"])
def test_torchscript_is_mapped_and_left_as_it_is(compiled: str) -> None:
    src, dst = randomised(Net(), 1).eval(), randomised(Net(), 2).eval()
    script = torch.jit.script(src) if compiled == "scripted" else torch.jit.trace(src, X)
    before = {key: value.clone() for key, value in script.state_dict().items()}
    mapping = fxmap.transfer(script, dst, example_inputs=X)
    assert mapping.ok
    assert all(torch.equal(value, before[key]) for key, value in script.state_dict().items())
    with torch.no_grad():
        assert torch.allclose(src(X), dst(X), atol=1e-5)


def test_the_code_of_an_archive_runs_only_if_it_is_allowed(tmp_path: Path) -> None:
    src, dst = randomised(Net(), 1).eval(), randomised(Net(), 2).eval()
    torch.jit.save(torch.jit.trace(src, X), tmp_path / "net.ts")
    with pytest.raises(fxmap.CheckpointError, match="allow_code=True"):
        fxmap.load(dst, tmp_path / "net.ts", example_inputs=X)
    assert fxmap.load(dst, tmp_path / "net.ts", example_inputs=X, allow_code=True).ok


def test_a_damaged_program_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "net.pt2").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(fxmap.CheckpointError, match=r"net\.pt2: no exported program"):
        fxmap.load(Net(), tmp_path / "net.pt2")


class Tokens(nn.Module):
    """Ids of types that a call leaves out, which are in no state dict, and a number that code computes of a shape."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.types, self.out = nn.Embedding(20, 8), nn.Embedding(2, 8), nn.Linear(8, 4)
        self.register_buffer("ids", torch.zeros(1, 16, dtype=torch.long), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        ids: Tensor = self.ids[:, : x.shape[1]]  # type: ignore[index]
        out: Tensor = self.out(torch.tanh(self.words(x) + self.types(ids)).narrow(1, 0, x.shape[1] // 2))
        return out


class Deciding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(x)
        return y * 2 if int(y.sum()) > 1000000 else y


def test_a_trace_with_ids_that_a_call_leaves_out_and_numbers_of_shapes_is_proven() -> None:
    src, dst = randomised(Tokens(), 1).eval(), randomised(Tokens(), 2).eval()
    x = torch.randint(0, 20, (1, 8))
    script = torch.jit.trace(src, x)
    assert ScriptedModel(script).unseen_decisions == ()
    mapping = fxmap.transfer(script, dst, example_inputs=x)
    assert mapping.ok, mapping.proof.reason
    assert torch.allclose(src(x), dst(x), atol=1e-5)


class Counting(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        return x * 2, x.shape[1]


class Counted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.counting, self.fc = Counting(), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y, count = self.counting(x)
        out: Tensor = self.fc(y) + torch.arange(0, count + 1).float().sum()
        return out


def test_an_extent_that_a_module_returns_beside_a_value_is_no_number_of_a_value() -> None:
    script = torch.jit.trace(Counted().eval(), torch.randn(2, 8))
    kinds = {node.kind() for node in script.inlined_graph.nodes()}
    assert "prim::TupleUnpack" in kinds
    assert kinds & {"aten::ScalarImplicit", "aten::Int"}
    assert ScriptedModel(script).unseen_decisions == ()


def test_a_script_that_takes_numbers_out_of_its_values_is_not_proven() -> None:
    src, dst = randomised(Deciding(), 1).eval(), randomised(Deciding(), 2).eval()
    script = torch.jit.script(src)
    assert ScriptedModel(script).unseen_decisions == ("aten::Int",)
    assert not fxmap.auto_map(script, dst, example_inputs=torch.randn(2, 8)).ok


class Masked(nn.Module):
    """A mask that code fills part by part, as shifted windows have it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        mask = x.new_zeros((6,))
        mask[0:2] = 1
        mask[2:5].add_(2)
        out: Tensor = self.b(self.a(x).masked_fill(mask == 1, -1.0) * mask)
        return out


def test_what_a_program_writes_to_a_part_of_a_tensor_is_read_in_the_whole() -> None:
    x = torch.randn(2, 6)
    src, dst = randomised(Masked(), 1).eval(), randomised(Masked(), 2).eval()
    mapping = fxmap.load(dst, torch.export.export(src, (x,)))
    assert mapping.ok, mapping.proof.reason
    assert torch.allclose(src(x), dst(x), atol=1e-6)


def test_a_trace_is_proven_for_the_extents_of_the_example_and_a_script_for_others_too() -> None:
    src, dst, x = randomised(Same(), 1).eval(), randomised(Same(), 2).eval(), torch.randn(1, 3, 12, 12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(src, x)
    mapping = fxmap.transfer(traced, dst, example_inputs=x)
    assert mapping.ok, mapping.proof.reason
    assert "1x3x12x12" in str(mapping.proof.scope)
    script = ScriptedModel(torch.jit.script(Deciding()))
    assert not script.is_trace


class Scaled(nn.Module):
    """A scale that a trace makes of an extent, in single precision where nothing asks for more."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.order = nn.Linear(6, 6), nn.Linear(6, 4), nn.Buffer(torch.tensor([2, 0, 1, 5, 4, 3]))

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        mask = x.new_zeros((6,))
        mask[0:2] = 1
        y = torch.tanh(y * (y.shape[-1] // 2) ** -0.5)[:, self.order].masked_fill(mask == 1, -1.0)
        out: Tensor = self.b(y)
        return out


def test_a_trace_that_writes_to_parts_and_looks_up_in_its_integers_is_proven() -> None:
    src, dst, x = Scaled(), Scaled(), torch.randn(2, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(src.eval(), x)
    mapping = fxmap.transfer(traced, dst.eval(), example_inputs=x)
    assert mapping.ok, mapping.proof.reason
    assert torch.allclose(src(x), dst(x), atol=1e-6)
