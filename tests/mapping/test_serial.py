"""A mapping as JSON: kinds of notes survive, and files of before notes had kinds are read."""

import json

import pytest

import fxmap
from fxmap.expressions.base import Source
from fxmap.mapping.findings import Findings, Mismatch, Note, NoteKind
from fxmap.mapping.key_mapping import KeyMapping
from fxmap.mapping.proof import Status

FULL = KeyMapping(
    {"a": "b"},
    Findings(
        statuses={"a": Status.PROVEN, "c": Status.MISMATCHED},
        unexpected=("d",),
        mismatched=(Mismatch("c", "e", (1,), (2,)),),
        unread=("f",),
        ranges=("g",),
        reasons={"f": "why"},
        notes=(Note("ranges", NoteKind.RANGES_NEEDED), Note("other")),
        stages=("float", "converted, static int8"),
        rungs=("symbolic trace", "recorded run"),
        saturating={"h": ("i", 6.0)},
        literals={"j": (Source("k"), Source("l"))},
        different="different",
        blocked="blocked",
    ),
)

# What to_json wrote before notes had kinds.
EARLIER = {
    "fxmap": 1,
    "expressions": {"a": {"op": "source", "key": "b"}},
    "knowledge": {
        "statuses": {"a": "guessed"},
        "unexpected": [],
        "mismatched": [{"key": "c", "source": "e", "src_shape": [1], "dst_shape": [2]}],
        "unread": [],
        "ranges": [],
        "reasons": {},
        "notes": ["no graph: keys are matched by names"],
        "stages": ["", ""],
        "rungs": ["names", "names"],
        "different": "",
        "blocked": "",
    },
}


def test_every_finding_survives_with_its_type() -> None:
    again = KeyMapping.from_json(FULL.to_json())
    assert again == FULL
    assert str(again) == str(FULL)
    assert [note.kind for note in again.knowledge.notes] == [NoteKind.RANGES_NEEDED, NoteKind.OTHER]


def test_notes_stay_sentences_in_json() -> None:
    data = json.loads(FULL.to_json())["knowledge"]
    assert data["notes"] == ["ranges", "other"]
    assert data["note_kinds"] == ["ranges needed", "other"]


def test_json_of_before_notes_had_kinds_is_read() -> None:
    mapping = KeyMapping.from_json(json.dumps(EARLIER))
    assert mapping["a"] == Source("b")
    assert mapping.knowledge.rungs == ("names", "names")
    assert mapping.knowledge.stages == ("", "")
    assert mapping.knowledge.notes == ("no graph: keys are matched by names",)
    assert mapping.knowledge.mismatched == (Mismatch("c", "e", (1,), (2,)),)


@pytest.mark.parametrize(
    "damage",
    [
        {"note_kinds": []},
        {"note_kinds": ["no such kind"]},
        {"rungs": [""]},
        {"stages": ["float"]},
        {"statuses": {"a": "no such status"}},
        {"no such field": 1},
    ],
)
def test_damaged_findings_are_refused(damage: dict[str, object]) -> None:
    data = EARLIER | {"knowledge": EARLIER["knowledge"] | damage}
    with pytest.raises(fxmap.MappingError, match="not a mapping that fxmap wrote"):
        KeyMapping.from_json(json.dumps(data))
