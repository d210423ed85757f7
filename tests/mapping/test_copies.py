"""KeyMapping as a surface: its trace, and copies with other findings."""

import pytest

from fxmap.mapping.findings import Note, NoteKind
from fxmap.mapping.key_mapping import KeyMapping
from fxmap.mapping.proof import Proof, Status
from fxmap.trace import Step, Trace

TRACE = Trace((Step("capture", "2 graphs"),))


def test_a_mapping_by_hand_has_an_empty_trace() -> None:
    assert KeyMapping({"a": "b"}).trace == Trace()


def test_the_trace_is_kept_by_every_copy() -> None:
    mapping = KeyMapping({"a": "b"}, trace=TRACE)
    copies = (
        mapping.with_knowledge(blocked="why"),
        mapping.with_notes(Note("look")),
        mapping.with_proof(Proof()),
        mapping.without_ranges(),
        KeyMapping({"a": "b"}).with_trace(TRACE),
    )
    assert all(copy.trace == TRACE for copy in copies)


def test_the_trace_is_no_part_of_equality_nor_of_json() -> None:
    mapping, traced = KeyMapping({"a": "b"}), KeyMapping({"a": "b"}, trace=TRACE)
    assert mapping == traced
    assert mapping.to_json() == traced.to_json()
    assert str(mapping) == str(traced)


def test_a_proof_decides_the_statuses() -> None:
    mapping = KeyMapping({"a": "b"}).with_proof(Proof(statuses={"a": Status.PROVEN}))
    assert mapping.status("a") is Status.PROVEN
    assert mapping.proof == Proof(statuses={"a": Status.PROVEN})


def test_notes_are_added_behind_those_that_are_there() -> None:
    mapping = KeyMapping({"a": "b"}).with_notes(Note("one")).with_notes(Note("two", NoteKind.TRIAL_RUN))
    assert mapping.knowledge.notes == ("one", "two")
    assert [note.kind for note in mapping.knowledge.notes] == [NoteKind.OTHER, NoteKind.TRIAL_RUN]


def test_a_key_that_is_not_made_says_why() -> None:
    mapping = KeyMapping({"a": "b"}).with_knowledge(statuses={"a": Status.MATCHED, "c": Status.KEPT}, reasons={"c": "own"})
    with pytest.raises(KeyError, match="c: kept: own"):
        mapping["c"]
    assert "c" not in mapping
