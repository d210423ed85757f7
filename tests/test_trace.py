"""Stages report themselves: nested ones are not counted twice, and nothing is kept outside of a recording."""

import threading

from fxmap.trace import Step, Trace, recording, stage


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
