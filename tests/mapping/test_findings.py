"""Findings: notes with kinds, statuses with meanings, and what code asks of them."""

import copy
import json
import pickle

import pytest
from torch import nn

import fxmap
from fxmap.mapping.findings import NAMES_ALONE, Findings, Mismatch, Note, NoteKind
from fxmap.mapping.key_mapping import KeyMapping
from fxmap.mapping.proof import Status


def test_a_note_is_its_sentence_and_keeps_its_kind_when_copied() -> None:
    note = Note("one sentence", NoteKind.WRAPPERS)
    assert note == "one sentence"
    assert str(note) == "one sentence"
    assert "sentence" in note
    for again in (copy.deepcopy(note), pickle.loads(pickle.dumps(note))):
        assert (again, again.kind) == (note, NoteKind.WRAPPERS)


def test_notes_are_chosen_by_kind_and_not_by_their_words() -> None:
    needed, other = Note("a", NoteKind.RANGES_NEEDED), Note("activation ranges cannot be made", NoteKind.OTHER)
    found = Findings(notes=(needed, other))
    assert found.notes_of(NoteKind.RANGES_NEEDED) == (needed,)
    assert found.notes_but(NoteKind.RANGES_NEEDED) == (other,)


def test_a_plain_sentence_becomes_a_note_of_no_particular_kind() -> None:
    (note,) = KeyMapping({"a": "b"}).with_knowledge(notes=("by hand",)).knowledge.notes
    assert note.kind is NoteKind.OTHER


@pytest.mark.parametrize("status", list(Status))
def test_every_status_says_what_it_means_and_is_found_by_its_value(status: Status) -> None:
    assert status.meaning
    assert status.__doc__ == status.meaning
    assert Status(status.value) is status
    assert pickle.loads(pickle.dumps(status)) is status
    assert json.dumps(status) == f'"{status.value}"'


def test_which_statuses_are_proven_and_which_leave_nothing_open() -> None:
    proven = {Status.PROVEN, Status.TIED, Status.INERT}
    assert {status for status in Status if status.is_proven} == proven
    assert {status for status in Status if status.is_done} == proven | {Status.KEPT, Status.CALIBRATED, Status.TAKEN}


def test_findings_print_as_a_report() -> None:
    found = Findings(
        statuses={"a": Status.PROVEN, "b": Status.MISSING, "c": Status.MISMATCHED},
        unexpected=("x",),
        mismatched=(Mismatch("c", "y", (2, 3), (4, 3)),),
        reasons={"b": "nothing has its shape"},
        notes=(Note("look here"),),
        stages=("float", "converted, static int8"),
        rungs=("symbolic trace", "symbolic trace"),
    )
    assert str(found).splitlines() == [
        "source: float; destination: converted, static int8; captured by symbolic trace",
        "      1  proven: both models were run, and no other choice gives the same function",
        "      1  missing: no source",
        "      1  mismatched: the source's counterpart has another shape",
        "mismatched:",
        "  c [4, 3]: source y [2, 3]",
        "missing: b",
        "  because nothing has its shape",
        "unexpected (in the source alone): x",
        "note: look here",
    ]
    assert str(Findings()) == "nothing is known beside the expressions"


def test_an_absent_key_says_why() -> None:
    found = Findings({"a": Status.KEPT, "b": Status.MISSING}, reasons={"a": "a counter"})
    assert found.why_absent("a") == "kept: a counter"
    assert found.why_absent("b") == "missing: the source does not make it"
    assert found.why_absent("c") == "not a key of the destination, which has 2"


def test_without_a_graph_the_proof_gives_the_note_that_says_so() -> None:
    dst = nn.Linear(2, 2)
    mapping = fxmap.auto_map({"module.weight": dst.weight, "module.bias": dst.bias}, dst)
    kinds = [note.kind for note in mapping.knowledge.notes]
    assert kinds == [NoteKind.NO_GRAPH, NoteKind.WRAPPERS, NoteKind.TRIAL_RUN]
    assert mapping.knowledge.rungs == (NAMES_ALONE, NAMES_ALONE)
    assert mapping.proof.reason == mapping.knowledge.notes[0]


def test_structure_says_how_graphs_were_captured_and_how_far_models_are_quantized() -> None:
    known = fxmap.auto_map(nn.Linear(2, 2), nn.Linear(2, 2), verify=False).knowledge
    assert known.rungs == ("symbolic trace", "symbolic trace")
    assert known.stages == ("float", "float")
