"""Models and surroundings that are plausible, and unusual: a mapping, perhaps a partial one, or an error that names it."""

import signal
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import fxmap

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


class Ending(nn.Module):
    """Two layers, and a function of what they compute."""

    def __init__(self, name: str, end: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.name, self.end = name, end
        self.add_module(name, nn.Linear(6, 6))
        self.last = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Any:
        return self.end(self.last(self.get_submodule(self.name)(x).tanh()))


def _drawn(y: Tensor) -> Tensor:
    noise = torch.empty(2).uniform_(0, 1)
    return y if float(y.sum()) < 1e9 else y * noise.random_(3).sum()


ENDS: dict[str, Callable[[Tensor], Any]] = {
    "division by zero": lambda y: y / (1 // 0),
    "a key that is absent": lambda y: dict[str, Tensor]()["absent"],
    "an iterator that ends": lambda y: next(iter(())),
    "sparse": lambda y: y.to_sparse(),
    "compressed": lambda y: y.to_sparse_csr(),
    "nested": lambda y: torch.nested.nested_tensor([y[0], y[1]]),
    "eight bits": lambda y: y.to(torch.float8_e4m3fn),
    "expanded": lambda y: y[:, None].expand(-1, 5, -1),
    "on the meta device": lambda y: y.to("meta"),
    "empty": lambda y: y[:0],
    "a number": lambda y: y.sum().item(),
    "an array": lambda y: y.detach().numpy(),
    "drawn in place": _drawn,
}


@pytest.mark.parametrize("name", ENDS)
def test_whatever_a_model_returns_or_raises_is_answered(name: str) -> None:
    src, dst = Ending("a", ENDS[name]), Ending("b", ENDS[name])
    mapping = fxmap.auto_map(src, dst, example_inputs=X)
    assert dict(mapping.renames) == {"b.weight": "a.weight", "b.bias": "a.bias"} | {
        k: k for k in ("last.weight", "last.bias")
    }
    assert mapping.proof.ok or mapping.proof.reason


def test_an_error_of_the_users_code_is_theirs_with_file_and_line() -> None:
    src, dst = Ending("a", ENDS["division by zero"]), Ending("b", ENDS["division by zero"])
    reason = fxmap.auto_map(src, dst, example_inputs=X).proof.reason
    assert "ZeroDivisionError" in reason
    assert "test_plausible.py:" in reason


@pytest.mark.parametrize("what", ["source", "destination"])
def test_layers_that_were_never_run_are_named(what: str) -> None:
    lazy, plain = nn.Sequential(nn.LazyLinear(3)), nn.Sequential(nn.Linear(4, 3))
    src, dst = (lazy, plain) if what == "source" else (plain, lazy)
    for call in (fxmap.auto_map, fxmap.transfer):
        with pytest.raises(fxmap.CaptureError, match=rf"0\.weight, 0\.bias: the {what} was never run"):
            call(src, dst)


def _norms() -> list[nn.Module]:
    return [nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, affine=True, track_running_stats=True)]


class Experts(nn.Module):
    """Experts that return lists whose length depends on the data."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.gate = name, nn.Linear(6, 3)
        self.add_module(name, nn.ModuleList(nn.Linear(6, 6) for _ in range(3)))

    def forward(self, x: Tensor) -> list[Tensor]:
        chosen = self.gate(x).argmax(-1)
        return [self.get_submodule(f"{self.name}.{e}")(x[chosen == e]) for e in chosen.unique().tolist()]


PAIRS: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module], Tensor]] = {
    "statistics of instances": (
        lambda: nn.Sequential(*_norms(), nn.Conv2d(4, 2, 1)),
        lambda: nn.Sequential(nn.Sequential(*_norms()), nn.Conv2d(4, 2, 1)),
        torch.randn(2, 3, 8, 8),
    ),
    "experts": (lambda: Experts("a"), lambda: Experts("b"), torch.randn(64, 6)),
    "script": (
        lambda: torch.jit.script(nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))),
        lambda: nn.Sequential(nn.Sequential(nn.Linear(6, 6), nn.ReLU()), nn.Linear(6, 2)),
        X,
    ),
    "trace": (
        lambda: nn.Sequential(torch.jit.trace(nn.Linear(6, 6), X), nn.Linear(6, 2)),
        lambda: nn.Sequential(nn.Sequential(nn.Linear(6, 6)), nn.Linear(6, 2)),
        X,
    ),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_unusual_models_are_mapped(name: str) -> None:
    torch.manual_seed(0)
    make, other, x = PAIRS[name]
    src, dst = make().eval(), other().eval()
    mapping = fxmap.auto_map(src, dst, example_inputs=x)
    if name == "experts":  # how many lists there are depends on the weights: a part of it may be all
        assert mapping.renames["gate.weight"] == "gate.weight"
        assert len(mapping) == len(dst.state_dict()) or mapping.proof.reason
        return
    assert not mapping.missing
    assert mapping.proof.ok


@contextmanager
def _default(device: str = "cpu", dtype: torch.dtype = torch.float32) -> Any:
    torch.set_default_device(device)
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)


AROUND: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "fake tensors": FakeTensorMode,
    "device": lambda: _default(device="meta"),
    "double": lambda: _default(dtype=torch.float64),
    "half": lambda: _default(dtype=torch.float16),
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu"),
}


@pytest.mark.parametrize("name", AROUND)
@pytest.mark.parametrize("inputs", [X, None], ids=["inputs", "inferred"])
def test_the_callers_surroundings_are_survived(name: str, inputs: Tensor | None) -> None:
    src = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    dst = nn.Sequential(nn.Sequential(nn.Linear(6, 8), nn.ReLU()), nn.Linear(8, 2))
    with AROUND[name]():
        assert fxmap.transfer(src, dst, example_inputs=inputs).proof.ok
    assert torch.equal(src(X), dst(X))


class Alarm(Exception):
    """What a signal handler of the user raises."""


@pytest.mark.parametrize("error", [Alarm, TimeoutError])
@pytest.mark.parametrize("after", [0.05, 0.4])
def test_what_a_signal_handler_raises_is_never_swallowed(error: type[Exception], after: float) -> None:
    def ring(*_: object) -> None:
        raise error("time is up")

    def slow(y: Tensor) -> Tensor:
        while True:
            y = y * 1.0

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, after)
        with pytest.raises(error, match="time is up"):
            fxmap.auto_map(Ending("a", slow), Ending("b", slow), example_inputs=X)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
