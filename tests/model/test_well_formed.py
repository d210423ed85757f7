"""Models that are no tree of named tensors are refused by name, whatever function they are given to."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxmap


def _loop() -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].owner = model
    return model


class Bare(nn.Module):
    def __init__(self) -> None:
        pass


class Stateless(nn.Linear):
    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return None


class Numbered(nn.Linear):
    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return {1: torch.ones(1)}


class Unhashed(nn.Linear):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


class Unsized(nn.Linear):
    def __init__(self) -> None:
        super().__init__(2, 2)
        self.register_buffer("table", nn.parameter.UninitializedBuffer())


BROKEN: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "a loop": (_loop, r"0\.owner: a module of a Sequential that holds this module itself"),
    "no init": (Bare, r"does not call super\(\)\.__init__"),
    "no state": (lambda: Stateless(2, 2), "returns a NoneType"),
    "a number": (lambda: Numbered(2, 2), "has the key 1"),
    "no hash": (lambda: Unhashed(2, 2), "has no hash"),
    "no size": (Unsized, "was never run"),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("as_source", [True, False])
def test_they_are_refused_by_every_function(name: str, as_source: bool, tmp_path: Any) -> None:
    make, words = BROKEN[name]
    src, dst = (make(), nn.Linear(2, 2)) if as_source else (nn.Linear(2, 2), make())
    state = nn.Linear(2, 2).state_dict()
    torch.save(state, tmp_path / "a.pth")
    calls: tuple[Callable[[], object], ...] = (
        lambda: fxmap.auto_map(src, dst),
        lambda: fxmap.transfer(src, dst),
        lambda: fxmap.verify(src, dst, {}),
        lambda: fxmap.load(dst, state, src=src),
        lambda: fxmap.convert(tmp_path / "a.pth", tmp_path / "out", dst=dst, src=src),
    )
    for call in calls:
        with pytest.raises(fxmap.CaptureError, match=words):
            call()


class Answering(nn.Module):
    """A module that has an answer to every name."""

    def __init__(self, name: str, answer: Callable[[str], Any]) -> None:
        super().__init__()
        self.__dict__["answer"] = answer
        self.__dict__["name"] = name
        self._modules[name] = nn.Linear(2, 2)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == self.__dict__.get("name") or (name.startswith("_") and self.__dict__["answer"] is not _refuse):
                raise
            return self.__dict__["answer"](name)

    def forward(self, x: Tensor) -> Any:
        return self.get_submodule(self.__dict__["name"])(x)


def _refuse(name: str) -> Any:
    raise RuntimeError(f"there is no {name}")


@pytest.mark.parametrize("answer", [lambda _: 42, _refuse])
@pytest.mark.filterwarnings("error::fxmap.FaultWarning")
def test_modules_that_answer_to_every_name_are_mapped(answer: Callable[[str], Any]) -> None:
    src, dst = Answering("a", answer), Answering("b", answer)
    x = torch.randn(3, 2)
    assert fxmap.auto_map(src, dst, example_inputs=x).proof.ok
    fxmap.transfer(src, dst, example_inputs=x)
    assert torch.equal(dst.state_dict()["b.weight"], src.state_dict()["a.weight"])
