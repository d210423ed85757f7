"""What tells layers with equal inputs apart where their readers have no counterpart; outputs of one model alone."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxmap
from fxmap.mapping.proof import Status
from fxmap.testing.planted import randomised

X = torch.randn(2, 5, 8)


def _spelled(x: Tensor) -> Tensor:
    return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


class Gated(nn.Module):
    """A gate and values, joined or not, and a GELU that is one operation or spelled out."""

    def __init__(self, spelled: bool, joined: bool) -> None:
        super().__init__()
        self.spelled, self.joined = spelled, joined
        self.both = nn.Linear(8, 12) if joined else nn.ModuleList(nn.Linear(8, 6) for _ in range(2))
        self.out = nn.Linear(6, 8)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.both(x).chunk(2, -1) if self.joined else (layer(x) for layer in self.both)
        return self.out((_spelled(gate) if self.spelled else F.gelu(gate, approximate="tanh")) * value)


@pytest.mark.parametrize("joined", [False, True])
def test_an_exchange_that_fails_proves_what_no_reader_tells(joined: bool) -> None:
    src, dst = randomised(Gated(True, joined=False), 0), randomised(Gated(False, joined=joined), 1)
    mapping = fxmap.auto_map(src, dst, example_inputs=X)
    assert mapping.proof.ok, str(mapping)
    wrong = {"both.0.weight": "both.1.weight", "both.1.weight": "both.0.weight"}
    proof = fxmap.verify(src, randomised(Gated(False, joined=False), 1), {key: key for key in src.state_dict()} | wrong, X)
    assert not proof.ok
    assert proof.status("both.0.weight") is Status.MATCHED


class TwoOutputs(nn.Module):
    def __init__(self, all_outputs: bool) -> None:
        super().__init__()
        self.all, self.norm, self.out = all_outputs, nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        hidden = self.norm(x)
        if hidden.shape[0] < 2:  # keeps symbolic tracing out
            raise ValueError("too few")
        return (self.out(hidden), hidden) if self.all else self.out(hidden)


def test_an_output_that_one_model_alone_returns_is_no_reader() -> None:
    src, dst = randomised(TwoOutputs(False), 0), randomised(TwoOutputs(True), 1)
    mapping = fxmap.auto_map(src, dst, example_inputs=X)
    assert mapping.proof.ok, str(mapping)


class Spectrum(nn.Module):
    """A Fourier transform over two axes at once, which torch casts to a complex dtype first, or over one after the other."""

    def __init__(self, at_once: bool) -> None:
        super().__init__()
        self.at_once, self.first, self.out = at_once, nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        value = self.first(x)
        if value.shape[0] < 2:  # keeps symbolic tracing out
            raise ValueError("too few")
        return self.out((torch.fft.fftn(value, dim=(1, 2)) if self.at_once else torch.fft.fft2(value, dim=(1, 2))).real)


def test_what_was_cast_to_complex_in_a_recorded_run_is_compared_in_double() -> None:
    mapping = fxmap.auto_map(randomised(Spectrum(True), 0), randomised(Spectrum(False), 1), example_inputs=X)
    assert mapping.proof.ok, str(mapping)
    assert mapping.proof.error < 1e-12


class Resized(nn.Module):
    def __init__(self, by_factor: bool, mode: str = "nearest") -> None:
        super().__init__()
        self.by_factor, self.mode, self.conv = by_factor, mode, nn.Conv2d(3, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        options = {"scale_factor": 2.0} if self.by_factor else {"size": [2 * y.shape[2], 2 * y.shape[3]]}
        return F.interpolate(y, mode=self.mode, **options)


def test_a_map_may_be_resized_by_a_factor_or_to_a_size() -> None:
    src, dst = randomised(Resized(True), 0), randomised(Resized(False), 1)
    mapping = fxmap.auto_map(src, dst)
    assert mapping.proof.ok, str(mapping)
    other = fxmap.auto_map(src, randomised(Resized(True, "bilinear"), 1))
    assert not other.proof.ok


class RealPart(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.out = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.fft.fft(self.first(x), dim=1).real)


def test_the_real_part_of_a_value_is_a_value_in_a_trace() -> None:
    mapping = fxmap.auto_map(randomised(RealPart(), 0), randomised(RealPart(), 1), example_inputs=X)
    assert mapping.knowledge.rungs == ("symbolic trace", "symbolic trace")
    assert mapping.proof.ok, str(mapping)


class Selected(nn.Module):
    """A norm of all tokens of which one is used, or of that token alone; two inputs, in one order or the other."""

    def __init__(self, first: bool, place: int = 0) -> None:
        super().__init__()
        self.first, self.place = first, place
        self.body, self.other, self.norm = nn.Linear(8, 8), nn.Linear(4, 8), nn.LayerNorm(8)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        if x is None or y is None:
            raise ValueError("two inputs")
        hidden = self.body(x).tanh() + self.other(y).tanh()[:, None]
        hidden = self.norm(hidden[:, self.place]) if self.first else self.norm(hidden)[:, self.place]
        return self.out(hidden)


@pytest.mark.parametrize(("place", "ok"), [(0, True), (1, False)])
def test_a_norm_may_come_before_a_token_is_selected_and_inputs_in_another_order(place: int, ok: bool) -> None:
    src, dst = randomised(Selected(False), 0), randomised(Selected(True, place), 1)
    y = torch.randn(2, 4)
    mapping = fxmap.auto_map(src, dst, example_inputs=(X, y), dst_inputs={"y": y, "x": X})
    assert mapping.proof.ok is ok, str(mapping)
    if not ok:
        assert mapping.proof.status("norm.weight") is not Status.PROVEN


class Mutating(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.out = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return _rolled(self.first(x), [1, 2]) @ self.out.weight.t() + self.out.bias


def _rolled(x: Tensor, shifts: list[int]) -> Tensor:
    shifts[0] = 0
    return x.roll(shifts, (1, 2))


torch.fx.wrap("_rolled")


def test_a_trace_that_no_interpreter_runs_gives_way_to_a_recorded_run() -> None:
    mapping = fxmap.auto_map(randomised(Mutating(), 0), randomised(Mutating(), 1), example_inputs=X)
    assert mapping.knowledge.rungs == ("recorded run", "recorded run")
    assert mapping.proof.ok, str(mapping)
