"""Nothing that fxmap is given changes, whatever the models' own code does, and whatever interrupts it."""

import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.ao.quantization as tq
from safetensors.torch import save_file
from torch import Tensor, nn

import fxmap


class Restless(nn.Module):
    """A model whose forward changes whatever it can reach, and draws random numbers."""

    def __init__(self, names: tuple[str, ...] = ("table", "body", "norm", "head"), untraceable: bool = False) -> None:
        super().__init__()
        table, body, norm, head = names
        self.add_module(table, nn.Embedding(400, 16, max_norm=1.0))
        self.add_module(body, nn.Linear(16, 16))
        self.add_module(norm, nn.LayerNorm(16))
        self.add_module(head, nn.Linear(16, 4))
        self.count: Tensor
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.names, self.untraceable = names, untraceable
        self.notes: dict[str, Any] = {"runs": [0], "sizes": {"last": None}}
        self.calls = 0
        self.fail_at = -1
        seen = self.seen = [0]

        def hook(module: nn.Module, args: Any, output: Any) -> None:
            seen[0] += 1

        if untraceable:
            self.get_submodule(body).register_forward_hook(hook)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.notes["runs"][0] += 1
        self.notes["sizes"]["last"] = x.shape
        self.count += 1
        if self.calls == self.fail_at:
            raise ZeroDivisionError("division by zero")
        if self.untraceable and int(x.flatten()[0]) < 0:
            return x
        table, body, norm, head = (self.get_submodule(name) for name in self.names)
        if self.untraceable:
            for parameter in self.parameters():
                parameter.requires_grad_(False)
            torch.set_default_dtype(torch.get_default_dtype())
            warnings.simplefilter("ignore")
            torch.manual_seed(5)
        random.random()
        np.random.rand()
        torch.rand(2)
        out: Tensor = head(norm(body(table(x)).tanh()))
        return out


def process() -> list[Any]:
    """Return whatever belongs to the process and to this thread."""
    backends: Any = torch.backends
    return [
        torch.get_rng_state().tolist(),
        random.getstate(),
        str(np.random.get_state()),
        [torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled(), torch.is_inference_mode_enabled()],
        [backends.mha.get_fastpath_enabled(), backends.mkldnn.enabled, backends.quantized.engine],
        [backends.cuda.flash_sdp_enabled(), backends.cuda.math_sdp_enabled(), backends.cuda.mem_efficient_sdp_enabled()],
        [torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack()],
        [nn.Module.__call__, nn.Module.__getattr__, nn.Module.__setattr__, nn.Module.forward],
        list(warnings.filters),
        dict(os.environ),
        list(sys.path),
        sorted(vars(sys.modules["math"]).items(), key=str),
    ]


def held(model: nn.Module) -> list[Any]:
    """Return whatever a model holds."""
    modules = [(path, sorted(vars(part)), part.training, len(part._forward_hooks)) for path, part in model.named_modules()]
    tensors = [(id(value), value.requires_grad, value.grad) for value in (*model.parameters(), *model.buffers())]
    values = {key: value.clone() for key, value in model.state_dict().items() if isinstance(value, Tensor)}
    plain = repr([getattr(model, name, None) for name in ("notes", "calls", "seen")])
    return [modules, tensors, plain, values]


def same(one: list[Any], other: list[Any]) -> bool:
    values = all(torch.equal(value, other[-1][key]) for key, value in one[-1].items())
    return values and one[:-1] == other[:-1]


@contextmanager
def unchanged(*models: nn.Module, state: dict[str, Tensor] | None = None) -> Iterator[None]:
    """Check that models, a state dict and the process are as they were."""
    before, own = process(), [held(model) for model in models]
    kept = {key: value.clone() for key, value in (state or {}).items()}
    yield
    assert [(a, b) for a, b in zip(before, process(), strict=True) if a != b] == []
    assert all(same(a, held(model)) for a, model in zip(own, models, strict=True))
    assert all(torch.equal(value, (state or {})[key]) for key, value in kept.items())


X = torch.randint(0, 400, (2, 5), generator=torch.Generator().manual_seed(0))
OTHER = ("emb", "fc", "ln", "out")


@pytest.mark.parametrize("untraceable", [False, True])
@pytest.mark.parametrize("inputs", [X, None], ids=["inputs", "inferred"])
def test_mapping_and_proving_change_nothing(untraceable: bool, inputs: Tensor | None) -> None:
    src, dst = Restless(untraceable=untraceable), Restless(OTHER, untraceable)
    fxmap.auto_map(nn.Linear(2, 2), nn.Linear(2, 2))  # what is imported late
    with unchanged(src, dst):
        mapping = fxmap.auto_map(src, dst, example_inputs=inputs)
        fxmap.verify(src, dst, dict(mapping), inputs)
    assert len(mapping) >= 7


def test_a_trial_with_a_state_dict_does_not_write_to_it() -> None:
    state, dst = Restless().state_dict(), Restless(OTHER)
    with unchanged(dst, state=state):
        fxmap.auto_map(state, dst, example_inputs=X)


@pytest.mark.parametrize("untraceable", [False, True])
def test_loading_writes_the_state_dict_and_nothing_else(untraceable: bool, tmp_path: Path) -> None:
    src, dst = Restless(untraceable=untraceable), Restless(OTHER, untraceable)
    state = src.state_dict()
    save_file({key: value.clone() for key, value in state.items()}, tmp_path / "a.safetensors")
    notes = repr(dst.notes), dst.calls, dst.seen[0]
    for call in (
        lambda: fxmap.transfer(src, dst, example_inputs=X),
        lambda: fxmap.load(dst, dict(state), src=src, example_inputs=X),
        lambda: fxmap.load(dst, tmp_path / "a.safetensors", src=src, example_inputs=X),
    ):
        with unchanged(src, state=state):
            call()
        assert torch.equal(dst.state_dict()["emb.weight"], state["table.weight"])
        assert (repr(dst.notes), dst.calls, dst.seen[0]) == notes


@pytest.mark.parametrize("at", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("untraceable", [False, True])
def test_a_forward_that_fails_at_some_call_changes_nothing(at: int, untraceable: bool) -> None:
    src, dst = Restless(untraceable=untraceable), Restless(OTHER, untraceable)
    src.fail_at = dst.fail_at = at
    with unchanged(src, dst):
        fxmap.auto_map(src, dst, example_inputs=X)


class Counting(nn.Module):
    """A convolutional model with a counter, that can be quantized."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = tq.QuantStub(), tq.DeQuantStub()
        self.conv, self.norm, self.relu = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()
        self.count: Tensor
        self.register_buffer("count", torch.zeros(()))
        self.notes = {"runs": [0]}

    def forward(self, x: Tensor) -> Tensor:
        self.notes["runs"][0] += 1
        self.count = self.count + 1
        out: Tensor = self.dequant(self.relu(self.norm(self.conv(self.quant(x)))))
        return out


def int8() -> nn.Module:
    model = tq.fuse_modules(Counting().eval(), [["conv", "norm", "relu"]])
    model.qconfig = tq.QConfig(activation=tq.default_observer, weight=tq.default_weight_observer)
    tq.prepare(model, inplace=True)
    model(torch.randn(2, 3, 8, 8))
    return tq.convert(model, inplace=True)


@pytest.mark.parametrize("calibration", ["distilled", "batches", "refused", "none"])
def test_calibration_changes_no_source_and_no_batch(calibration: str) -> None:
    src, dst = Counting().eval(), int8()
    batch = torch.randn(4, 3, 8, 8)
    data: Any = {"distilled": "distilled", "batches": [batch], "refused": [torch.randn(1, 2, 8, 8)], "none": [None]}
    notes, kept = repr(dst.notes), batch.clone()
    before = held(dst)
    with unchanged(src):
        try:
            fxmap.transfer(src, dst, calibration=data[calibration], verify=False, on_mismatch="keep")
        except fxmap.QuantizationError:
            assert calibration in ("refused", "none")
            assert repr(before[:-1]) == repr(held(dst)[:-1])
    assert repr(dst.notes) == notes
    assert torch.equal(batch, kept)


def _interrupted(call: Callable[[], object], at: int, error: type[BaseException]) -> bool:
    """Call a function, and raise an error at the start of the k-th call inside it; return whether that was reached."""
    count = 0

    def profile(frame: Any, event: str, _: Any) -> None:
        nonlocal count
        if event == "call":
            count += 1
            if count == at:
                raise error

    sys.setprofile(profile)
    try:
        call()
    except (KeyboardInterrupt, fxmap.FxmapError):
        pass
    finally:
        sys.setprofile(None)
    return count >= at


@pytest.mark.parametrize("untraceable", [False, True])
def test_an_interrupt_leaves_nothing_changed(untraceable: bool) -> None:
    src, dst = Restless(untraceable=untraceable), Restless(OTHER, untraceable)
    for at in [5, 300, 3_001, 9_007, 20_011]:
        with unchanged(src, dst):
            _interrupted(lambda: fxmap.auto_map(src, dst, example_inputs=X), at, KeyboardInterrupt)


@pytest.mark.slow
@pytest.mark.parametrize("untraceable", [False, True])
def test_interrupts_anywhere_leave_nothing_changed(untraceable: bool) -> None:
    draw = random.Random(0)
    src, dst = Restless(untraceable=untraceable), Restless(OTHER, untraceable)
    for _ in range(150):
        with unchanged(src, dst):
            at = int(10 ** draw.uniform(0, 5.3))
            _interrupted(lambda: fxmap.auto_map(src, dst, example_inputs=X), at, KeyboardInterrupt)
