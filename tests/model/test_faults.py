"""Bugs of fxmap are said as such: a warning where other stages answer, an InternalError where none can."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxmap
from fxmap.api import automap
from fxmap.mapping.findings import NoteKind
from fxmap.matching.strategies import structure
from fxmap.model.faults import is_fault
from fxmap.prove import trial
from tests.end_to_end.test_undisturbed import Counting, int8


def a_bug(statement: str) -> Callable[..., Any]:
    """Return a function that stands, for a traceback, in a file of fxmap."""
    names: dict[str, Any] = {}
    file = str(Path(fxmap.__file__).with_name("broken.py"))
    exec(compile(f"def broken(*args, **kwargs):\n    {statement}", file, "exec"), names)
    broken: Callable[..., Any] = names["broken"]
    return broken


def pair() -> tuple[nn.Module, nn.Module]:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU()), nn.Sequential(nn.Identity(), nn.Linear(3, 4), nn.ReLU())


@pytest.mark.parametrize("statement", ["return ()[1]", "return {}['a']", "import torch; torch.stack([])", "assert False"])
def test_a_stage_that_fails_by_a_bug_is_named_in_a_warning_and_in_the_report(
    statement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(structure, "plan_by_structure", a_bug(statement))
    with pytest.warns(fxmap.FaultWarning, match=r"structure, by symbolic trace failed: .* at fxmap/broken\.py:2") as told:
        mapping = fxmap.auto_map(*pair())
    assert {Path(warning.filename).name for warning in told} == {"test_faults.py"}
    assert len(mapping) == 2
    assert not mapping.proof.ok
    assert mapping.knowledge.notes_of(NoteKind.FAULT)
    assert "a fault of fxmap: structure, by symbolic trace failed" in str(mapping)


def test_a_proof_that_fails_by_a_bug_is_no_proof_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "judge", a_bug("return ()[1]"))
    with pytest.warns(fxmap.FaultWarning, match="running both models failed: IndexError: tuple index out of range"):
        mapping = fxmap.auto_map(*pair())
    assert not mapping.proof.ok
    with pytest.warns(fxmap.FaultWarning, match="running both models failed"):
        assert not fxmap.verify(*pair(), mapping).ok


def test_a_bug_that_no_stage_survives_is_an_error_of_fxmap_with_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(automap, "_map", a_bug("return ()[1]"))
    src, dst = pair()
    with pytest.raises(fxmap.InternalError, match=r"fxmap\.transfer: a fault of fxmap, not of yours: .*report") as found:
        fxmap.transfer(src, dst)
    assert isinstance(found.value.__cause__, IndexError)
    assert isinstance(found.value, fxmap.FxmapError)


@pytest.mark.parametrize("error", ["KeyboardInterrupt", "TimeoutError", "SystemExit", "MemoryError", "OSError"])
def test_what_is_no_bug_comes_through(error: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(automap, "_map", a_bug(f"raise {error}"))
    with pytest.raises((Exception, KeyboardInterrupt, SystemExit)) as found:
        fxmap.auto_map(*pair())
    assert type(found.value).__name__ == error


def test_what_code_of_the_user_raises_is_theirs() -> None:
    def batches() -> Iterator[Tensor]:
        yield torch.randn(2, 3, 16, 16)
        raise IndexError("no more files")

    with pytest.raises(IndexError, match="no more files"):
        fxmap.transfer(Counting().eval(), int8(), calibration=batches(), verify=False, on_mismatch="keep")

    def forward(model: nn.Module, x: Tensor) -> Tensor:
        raise LookupError("nothing there")

    src, dst = pair()
    mapping = fxmap.auto_map(src, dst, example_inputs=torch.randn(2, 3), src_forward=forward)
    assert "nothing there" in str(mapping)
    assert mapping.knowledge.notes_of(NoteKind.FAULT) == ()


def test_wrong_arguments_are_said_by_errors_that_are_caught_as_before() -> None:
    wrong: Any = {"verify": "perhaps"}
    for kind in (fxmap.ArgumentError, ValueError, TypeError, fxmap.FxmapError):
        with pytest.raises(kind, match="verify is True"):
            fxmap.auto_map(*pair(), **wrong)
    unknown: Any = {"no_such": 1}
    with pytest.raises(TypeError, match="no_such") as found:
        fxmap.auto_map(*pair(), **unknown)
    assert not isinstance(found.value, fxmap.FxmapError)


def test_an_error_of_a_model_is_no_fault() -> None:
    with pytest.raises(RuntimeError) as found:
        nn.Linear(2, 2)(torch.zeros(3))
    assert not is_fault(found.value)


class _Speechless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class _Refusing(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise _Speechless


@pytest.mark.parametrize("inputs", [None, torch.ones(1, 2)], ids=["none", "x"])
def test_an_exception_that_cannot_say_its_text_is_an_answer_like_any_other(inputs: Any) -> None:
    mapping = fxmap.auto_map(_Refusing(2, 2), _Refusing(2, 2), example_inputs=inputs)
    assert mapping.renames == {"weight": "weight", "bias": "bias"}
    assert "_Speechless" in mapping.proof.reason or inputs is None
