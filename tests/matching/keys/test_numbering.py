"""Layers that a file counts from another number than the destination are matched in order, and the report says so."""

import re
import warnings
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

import fxmap
from fxmap.mapping.findings import NoteKind
from fxmap.matching.keys.mapper import map_by_name


def layers(names: Sequence[str]) -> dict[str, Tensor]:
    return {
        f"{name}.{leaf}": torch.zeros(6, 6) if leaf == "weight" else torch.zeros(6)
        for name in names
        for leaf in ("weight", "bias")
    }


def numbered(pattern: str, numbers: Sequence[int]) -> list[str]:
    return [pattern.format(number) for number in numbers]


@pytest.mark.parametrize("pattern", ["{}", "layer{}", "model.{}.fc", "blocks.{}.0.fc", "blocks.1.{}"])
@pytest.mark.parametrize(("one", "other"), [((1, 2, 3), (0, 1, 2)), ((0, 1, 2), (1, 2, 3)), ((0, 2, 4), (2, 4, 6))])
@pytest.mark.parametrize("by_name", [True, False])
def test_lists_that_are_counted_from_another_number_are_matched_in_order(
    pattern: str, one: Sequence[int], other: Sequence[int], by_name: bool
) -> None:
    ours, theirs = numbered(pattern, one), numbered(pattern, other)
    src = layers(ours)
    mapping = map_by_name({key: src[key] for key in (sorted(src) if by_name else src)}, layers(theirs), "no graph")
    wanted = {f"{b}.{leaf}": f"{a}.{leaf}" for a, b in zip(ours, theirs, strict=True) for leaf in ("weight", "bias")}
    assert mapping.renames == wanted
    assert [note.kind for note in mapping.knowledge.notes_of(NoteKind.NUMBERING, NoteKind.LAYOUT)] == [NoteKind.NUMBERING]


def test_lists_in_lists_are_both_matched_in_order() -> None:
    ours, theirs = ([f"stage{a}.{b}" for a in (start, start + 1) for b in range(start, start + 3)] for start in (1, 0))
    mapping = map_by_name(layers(ours), layers(theirs), "no graph")
    assert [mapping.renames[f"{name}.weight"] for name in theirs] == [f"{name}.weight" for name in ours]


def test_a_number_that_is_left_out_in_the_middle_is_warned_of() -> None:
    mapping = map_by_name(layers(numbered("{}", (0, 1, 2, 4))), layers(numbered("{}", (0, 2, 3, 4))), "no graph")
    assert mapping.renames["2.weight"] == "1.weight"
    (note,) = mapping.knowledge.notes_of(NoteKind.LAYOUT)
    assert "0 to 4 from 0 to 4" in note
    assert "check them" in note


@pytest.mark.parametrize(("one", "other"), [((1, 2, 3), (0, 1, 2)), ((0, 1, 2), (1, 2, 3)), ((0, 2, 4), (2, 4, 6))])
@pytest.mark.parametrize("names", [("{}", "layers.{}"), ("model.layers.{}", "layers.{}"), ("a.blocks.{}", "layers.{}")])
def test_lists_under_other_prefixes_are_matched_in_order(
    names: tuple[str, str], one: Sequence[int], other: Sequence[int]
) -> None:
    ours, theirs = (numbered(name, numbers) for name, numbers in zip(names, (one, other), strict=True))
    mapping = map_by_name(layers(ours), layers(theirs), "no graph")
    assert [mapping.renames[f"{name}.weight"] for name in theirs] == [f"{name}.weight" for name in ours]


def test_lists_of_other_lengths_keep_their_numbers() -> None:
    mapping = map_by_name(layers(numbered("{}", (1, 2, 3, 4))), layers(numbered("{}", (1, 2, 3))), "no graph")
    assert mapping.renames["1.weight"] == "1.weight"


def test_a_shifted_file_is_loaded_layer_by_layer_and_the_report_says_so() -> None:
    file, dst = (nn.ModuleDict({str(n + start): nn.Linear(6, 6) for n in range(3)}) for start in (1, 0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mapping = fxmap.load(dst, dict(file.state_dict()))
    assert all(torch.equal(a, b) for a, b in zip(file.parameters(), dst.parameters(), strict=True))
    assert re.search(r"numbering of layers differs.* 0 to 2 from 1 to 3", str(mapping))
