"""A mapping as JSON: kinds of notes survive, and files of before notes had kinds are read."""

import json

import pytest
from torch import nn

import fxmap
from fxmap.expressions.arithmetic import Full, Shifted
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
    claimed = FULL.with_knowledge(statuses={key: status.unverified for key, status in FULL.knowledge.statuses.items()})
    assert str(again) == str(KeyMapping(claimed, claimed.knowledge))
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


@pytest.mark.parametrize("status", list(Status))
def test_what_a_file_calls_proven_is_a_claim(status: Status) -> None:
    mapping = KeyMapping.from_json(KeyMapping({"a": "b"}, Findings({"a": status})).to_json())
    assert mapping.status("a") is (Status.CLAIMED if status in (Status.PROVEN, Status.TIED, Status.INERT) else status)
    assert not mapping.status("a").is_proven
    assert not mapping.ok
    assert "claimed by a file" in str(mapping) or not status.is_proven


def test_a_claim_is_proven_or_refuted_by_a_run() -> None:
    src, dst = (nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3)) for _ in range(2))
    said = dict.fromkeys(dst.state_dict(), Status.PROVEN)
    true = KeyMapping.from_json(KeyMapping({key: key for key in said}, Findings(said)).to_json())
    swapped = {key: f"{2 - int(key[0])}{key[1:]}" for key in said}
    false = KeyMapping.from_json(KeyMapping(swapped, Findings(said)).to_json())
    assert set(true.knowledge.statuses.values()) == {Status.CLAIMED}
    assert fxmap.verify(src, dst, true).ok
    proof = fxmap.verify(src, dst, false)
    assert proof.refuted
    assert not any(status.is_proven for status in proof.statuses.values())


def test_infinities_are_strings_in_json_and_read_back() -> None:
    mapping = KeyMapping({"a": Full((2,), float("-inf"), Source("b")), "c": Shifted(Source("b"), float("inf"))})
    text = mapping.to_json()
    json.loads(text, parse_constant=pytest.fail)
    assert KeyMapping.from_json(text) == mapping
