"""Stages report themselves: nested ones are not counted twice, and nothing is kept outside of a recording."""

import threading

from fxmap.trace import Step, Trace, recording, stage


def _work() -> int:
    return sum(range(300_000))


def test_seconds_of_an_inner_stage_are_not_those_of_the_outer_one() -> None:
    with recording() as steps, stage("outer"), stage("inner") as note:
        _work()
        note("found", left="weak")
    inner, outer = steps
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
                raise ValueError
        except ValueError:
            pass
    assert [step.stage for step in steps] == ["capture"]


def test_seconds_add_up_by_stage() -> None:
    trace = Trace((Step("a", seconds=1.0), Step("b", seconds=2.0), Step("a", seconds=0.5)))
    assert trace.seconds() == {"a": 1.5, "b": 2.0}
    assert str(Step("a", "x", "y", 1.0)) == "a: x; left, since y (1.00 s)"
