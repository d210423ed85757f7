"""Stages report themselves: nested ones are not counted twice, and nothing is kept outside of a recording."""

import logging
import threading
from typing import ClassVar

import pytest
from torch import nn

import fxmap
from fxmap.trace import Event, Step, Trace, progress, recording, stage


def _work() -> int:
    return sum(range(300_000))


def test_seconds_of_an_inner_stage_are_not_those_of_the_outer_one() -> None:
    with recording() as steps, stage("outer"), stage("inner") as note:
        _work()
        note("found", left="weak")
    outer, inner = steps
    assert (inner.stage, inner.found, inner.left) == ("inner", "found", "weak")
    assert inner.seconds > outer.seconds >= 0


def test_nothing_is_recorded_outside_or_in_another_thread() -> None:
    with stage("before"):
        pass
    with recording() as steps:
        thread = threading.Thread(target=lambda: stage("elsewhere").__enter__())
        thread.start()
        thread.join()
    assert steps == []


def test_a_stage_that_raises_is_recorded() -> None:
    with recording() as steps:
        try:
            with stage("capture"):
                raise ValueError("no graph")
        except ValueError:
            pass
    assert [(step.stage, step.left) for step in steps] == [("capture", "no graph")]


def test_a_stage_stands_before_those_inside_it_and_they_are_indented() -> None:
    with recording() as steps:
        with stage("structure"):
            with stage("align"):
                pass
            with stage("derive"):
                pass
        with stage("prove"):
            pass
    assert [(step.stage, step.depth) for step in steps] == [("structure", 0), ("align", 1), ("derive", 1), ("prove", 0)]
    assert [line.index(line.strip()) for line in str(Trace(tuple(steps))).splitlines()] == [0, 2, 2, 0]


def test_the_operations_of_a_trace_are_those_of_the_largest_graph() -> None:
    with recording() as steps:
        for size in (3, 7, 5):
            with stage("normalise") as note:
                note(operations=size)
    assert Trace(tuple(steps)).operations == 7
    assert Trace().operations == 0


def test_seconds_add_up_by_stage() -> None:
    trace = Trace((Step("a", seconds=1.0), Step("b", seconds=2.0), Step("a", seconds=0.5)))
    assert trace.seconds() == {"a": 1.5, "b": 2.0}
    assert str(Step("a", "x", "y", 1.0)) == "a: x; left, since y (1.00 s)"


def test_progress_is_told_in_order_and_only_while_it_is_asked_for() -> None:
    events: list[Event] = []
    with progress(events.append):
        fxmap.auto_map(nn.Linear(3, 2), nn.Linear(3, 2))
    count = len(events)
    fxmap.auto_map(nn.Linear(3, 2), nn.Linear(3, 2))
    assert len(events) == count
    shares = [event.share for event in events]
    assert shares == sorted(shares)
    assert shares[-1] > 0.25
    assert {"capture", "align", "derive", "prove"} <= {event.stage for event in events}
    assert any(event.seconds_left is not None for event in events)


def test_a_bar_is_moved_as_tqdm_is() -> None:
    class Bar:
        total = 100
        done = 0.0
        said: ClassVar[list[str]] = []

        def update(self, number: float) -> None:
            self.done += number

        def set_description(self, text: str) -> None:
            self.said.append(text)

    bar = Bar()
    with progress(bar):
        fxmap.auto_map(nn.Linear(3, 2), nn.Linear(3, 2))
    assert 25 < bar.done <= 100
    assert "prove" in bar.said


def test_what_a_callback_raises_ends_the_call() -> None:
    def stop(event: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), progress(stop):
        fxmap.auto_map(nn.Linear(3, 2), nn.Linear(3, 2))


def test_a_function_that_fails_is_not_asked_again_and_changes_no_proof(caplog: pytest.LogCaptureFixture) -> None:
    asked = []

    def fail(event: Event) -> None:
        asked.append(event)
        raise ValueError("the bar is closed")

    with caplog.at_level(logging.WARNING), progress(fail):
        assert fxmap.auto_map(nn.Linear(3, 2), nn.Linear(3, 2)).ok
    assert len(asked) == 1
    assert "the bar is closed" in caplog.text
