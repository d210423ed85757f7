"""State that a mapping does not read: buffers at their defaults, left-over keys of a file, a state beside the tensors."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.proof.attacks.attack import Attack, Function, Net, normal


def attacks() -> Iterator[Attack]:
    """Yield buffers that the destination lacks, given as models and as a file; then states of other kinds."""
    for name, (function, buffers) in _READ.items():
        yield _lost(name, function, buffers)
    for name in ("input mean and std", "temperature", "threshold", "mask of ones", "a number of steps"):
        function, buffers = _READ[name]
        yield _lost(f"{name}, in a file", function, buffers, file="load")
    for name in ("input mean and std", "gate of zeros", "temperature"):
        function, buffers = _READ[name]
        yield _lost(f"{name}, left over in the file alone", function, buffers, file="load", described=lambda: Net(_plain))
    yield Attack("a buffer of the destination alone", lambda: Net(_plain), lambda: Net(_tempered, temperature=torch.ones(1)),
                 normal(2, 8), normal(3, 8, seed=1), names=("temperature",))  # fmt: skip
    yield _own_state("a scale in the extra state", lambda h, scale: h * scale)
    yield _own_state("a bound in the extra state", lambda h, scale: h.clamp(max=scale * 20))
    yield _own_state("a scale in the extra state, of a file", lambda h, scale: h * scale, file="load")


def _plain(h: Tensor, _: Any) -> Tensor:
    return F.gelu(h)


def _tempered(h: Tensor, m: Any) -> Any:
    return F.gelu(h) / m.temperature


Read = tuple[Function, Mapping[str, Tensor]]

_READ: dict[str, Read] = {
    "input mean and std": (lambda h, m: F.gelu((h - m.mean) / m.std), {"mean": torch.zeros(8), "std": torch.ones(8)}),
    "temperature": (_tempered, {"temperature": torch.ones(1)}),
    "logit scale of e to the power of 0": (lambda h, m: F.gelu(h) * m.logit.exp(), {"logit": torch.zeros(())}),
    "threshold": (lambda h, m: F.gelu(h) * (h > m.threshold), {"threshold": torch.full((1,), -1e9)}),
    "gate of zeros": (lambda h, m: F.gelu(h) + m.gate * torch.tanh(h), {"gate": torch.zeros(8)}),
    "mask of ones": (lambda h, m: F.gelu(h) * m.mask, {"mask": torch.ones(8)}),
    "offset of zeros": (lambda h, m: F.gelu(h) + m.offset, {"offset": torch.zeros(8)}),
    "a number of steps": (lambda h, m: F.gelu(h) * 0.9**m.steps, {"steps": torch.zeros((), dtype=torch.long)}),
    "a permutation": (lambda h, m: F.gelu(h)[..., m.order], {"order": torch.arange(8)}),
    "a switch": (lambda h, m: torch.where(m.on, F.gelu(h), h), {"on": torch.tensor(True)}),
}


def _train(model: Any) -> None:
    """Leave values that training could leave, in what random floats do not reach."""
    for name, value in (("steps", 3), ("on", False), ("threshold", 0.1)):
        if hasattr(model, name):
            getattr(model, name).fill_(value)
    if hasattr(model, "order"):
        model.order.copy_(torch.arange(8).roll(3))


def _lost(name: str, function: Function, buffers: Mapping[str, Tensor], **options: Any) -> Attack:
    return Attack(
        name, lambda: Net(function, **buffers), lambda: Net(_plain), normal(2, 8), normal(3, 8, seed=1),
        train=_train, names=tuple(buffers), **options,
    )  # fmt: skip


class _Scaled(nn.Module):
    """A layer that keeps a number beside its tensors, as layers of fp8 do."""

    def __init__(self, use: Callable[[Tensor, float], Tensor]) -> None:
        super().__init__()
        self.fc, self.scale, self.use = nn.Linear(8, 4), 1.0, use

    def forward(self, x: Tensor) -> Tensor:
        """Compute (b, 4) of (b, 8)."""
        return self.use(self.fc(x), self.scale)

    def get_extra_state(self) -> dict[str, float]:
        """Return the number."""
        return {"scale": self.scale}

    def set_extra_state(self, state: dict[str, float]) -> None:
        """Take the number over."""
        self.scale = state["scale"]


def _own_state(name: str, use: Callable[[Tensor, float], Tensor], file: str = "") -> Attack:
    def train(model: Any) -> None:
        model.scale = 0.25

    build = lambda: _Scaled(use)  # noqa: E731 -- used twice
    names = ("_extra_state", "extra state")
    return Attack(name, build, build, normal(2, 8), normal(3, 8, scale=20, seed=1), train=train, file=file, names=names)
