"""Models that return what torch cannot compare, or sizes that depend on the data: mapped, proven, or said why not."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxmap

Change = Callable[[Tensor], Any]


class Odd(nn.Module):
    """A layer, and what code makes of its result."""

    def __init__(self, name: str, change: Change) -> None:
        super().__init__()
        self.name, self.change = name, change
        self.add_module(name, nn.Linear(4, 4))

    def forward(self, x: Tensor) -> Any:
        return self.change(self.get_submodule(self.name)(x))


PROVEN: dict[str, Change] = {
    "sparse": lambda y: y.to_sparse(),
    "compressed": lambda y: y.to_sparse_csr(),
    "fp8": lambda y: (y, y.to(torch.float8_e4m3fn)),
    "unsigned": lambda y: (10 * y).abs().to(torch.uint16),
    "expanded": lambda y: y[:, :1].expand(3, 1000),
    "beside text": lambda y: ("logits", y, None),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR")  # torch says that these are new
@pytest.mark.parametrize("kind", PROVEN)
def test_outputs_of_odd_kinds_are_compared(kind: str) -> None:
    src, dst = Odd("a", PROVEN[kind]), Odd("b", PROVEN[kind])
    mapping = fxmap.auto_map(src, dst, example_inputs=torch.randn(3, 4))
    assert mapping.renames == {"b.weight": "a.weight", "b.bias": "a.bias"}
    assert mapping.proof.ok, mapping.proof.reason


def _divided(y: Tensor) -> Tensor:
    return y * (1 / int(0 * y.sum()))


SAID: dict[str, tuple[Change, str]] = {
    "nothing": (lambda y: None, "returns no tensors"),
    "a number": (lambda y: float(y.sum()), "returns no tensors"),
    "division by zero": (_divided, "division by zero"),
    "no derivative": (lambda y: y.round().unique(), "the derivative for '_unique2' is not implemented"),
    "random": (lambda y: y + torch.empty(4).uniform_(), "its forward draws random numbers"),
    "integers at random": (lambda y: y + torch.empty(4).random_(0, 3), "its forward draws random numbers"),
    "as many as the data says": (lambda y: [row for row in y if row[0] > 0], ""),
    "repeated": (lambda y: y.sum().expand(100_000, 10_000), "repeats few numbers in memory (expand), and is too large"),
}


@pytest.mark.parametrize("inputs", [torch.randn(9, 4, generator=torch.Generator().manual_seed(0)), None], ids=["x", "none"])
@pytest.mark.parametrize("kind", SAID)
def test_what_cannot_be_compared_is_said_in_one_line_and_is_no_fault(kind: str, inputs: Tensor | None) -> None:
    change, reason = SAID[kind]
    mapping = fxmap.auto_map(Odd("a", change), Odd("b", change), example_inputs=inputs)
    assert not mapping.proof.ok
    assert "\n" not in mapping.proof.reason
    if inputs is not None:
        assert reason in mapping.proof.reason


class Detector(nn.Module):
    """A backbone, boxes of which only those with a score are kept, and a head that looks at these."""

    def __init__(self, names: tuple[str, str, str]) -> None:
        super().__init__()
        self.names = names
        for name, layer in zip(names, (nn.Conv2d(3, 8, 3, 2), nn.Conv2d(8, 4, 1), nn.Linear(8, 5)), strict=True):
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
        body, score, head = (self.get_submodule(name) for name in self.names)
        features = body(x).relu()
        keep = score(features).flatten(2).amax(1)
        found = []
        for one, value in zip(keep, features.flatten(2), strict=True):
            rows = (one > one.median()).nonzero()[:, 0]
            out = head(value[:, rows].T)
            found.append({"boxes": out.reshape(out.shape[0], -1), "best": out.reshape(-1).max()})
        return found


def test_a_detector_whose_sizes_depend_on_the_data_is_mapped_whole() -> None:
    src, dst = Detector(("body", "score", "head")), Detector(("net", "rank", "out"))
    mapping = fxmap.auto_map(src, dst, example_inputs=torch.randn(2, 3, 16, 16))
    assert mapping.renames == {
        f"{b}.{kind}": f"{a}.{kind}"
        for a, b in (("body", "net"), ("score", "rank"), ("head", "out"))
        for kind in ("weight", "bias")
    }
    assert not mapping.proof.refuted
