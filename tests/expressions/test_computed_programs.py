"""Programs that come from a file: what is no program is refused when it is read, and what does not fit when it runs."""

import json
from typing import Any

import pytest
import torch

import fxmap
from fxmap.errors import MappingError
from fxmap.expressions.base import Source
from fxmap.expressions.computed import Computed, Stretch

A = {"value": 0}


@pytest.mark.parametrize("program", ["", "{", "3", "[]", '[["add", 9]]', '{"a": 1}', "null", "[[[[]]]]"])
def test_what_is_no_program_is_refused(program: str) -> None:
    with pytest.raises(MappingError, match="no program of 1 tensors"):
        Computed((Source("a"),), program)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("aten.mul_.Tensor", "aten alone"),
        ("aten.add.out", "writes to an operand"),
        ("aten.reflection_pad2d_backward.default", "aten alone"),
        ("aten.remainder.int", "makes no tensor"),
        ("aten.from_file.default", "aten alone"),
        ("quantized.linear.default", "aten alone"),
        ("aten.no_such", "aten alone"),
    ],
)
def test_operations_that_write_or_that_look_at_nothing_are_refused(name: str, words: str) -> None:
    short = json.dumps([["aten.neg.default", [A], {}]] * 9 + [[name, [A, A], {}]])
    with pytest.raises(MappingError, match=words):
        Computed((Source("a"),), short)


def test_a_value_that_is_not_there_yet_is_refused() -> None:
    for place in (-1, 1, 2**70):
        with pytest.raises(MappingError, match="not there"):
            Computed((Source("a"),), json.dumps([["aten.neg.default", [{"value": place}], {}]]))


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([["aten.full.default", [[2**40], 1.0], {}]], "a result of more than"),
        ([["aten.cat.default", [[{"value": place}] * 9], {}] for place in range(12)], "a result of more than"),
        ([["aten.view.dtype", [A, 10**6], {}]], "dtype is 1000000"),
        ([["aten.sum.default", [A], {"dtype": -1}]], "dtype is -1"),
        ([["aten._fft_r2c.default", [A, [2**62], 0, True], {}]], "axes"),
        ([["aten.native_batch_norm.default", [A, None, None, A, A, False, 0.1, 0.1], {}]], "other sizes"),
        ([["aten.native_batch_norm.default", [A, None, None, None, None, False, 0.1, 0.1], {}]], "no running mean"),
        ([["aten.native_batch_norm.default", [A, A, A, A, A, True, 0.1, 0.1], {}]], "in training it writes"),
    ],
)
def test_arguments_that_end_the_process_or_fill_its_memory_are_refused(steps: list[Any], words: str) -> None:
    mapping = fxmap.KeyMapping({"b": Computed((Source("a"),), json.dumps(steps))})
    with pytest.raises(MappingError, match=rf"b = .*{words}"):
        mapping.apply({"a": torch.ones(3, 4)})


@pytest.mark.parametrize(("shape", "dtype"), [((2**40,), torch.float32), ((-1,), torch.float32), ((4,), torch.int64)])
def test_inputs_that_dwarf_the_tensors_are_refused(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    program = json.dumps([["aten.mul.Tensor", [A, {"value": 1}], {}]])
    mapping = fxmap.KeyMapping({"b": Stretch((Source("a"),), program, (shape,), (0,), (0,))})
    with pytest.raises(MappingError, match="b = "):
        mapping.apply({"a": torch.ones(4, dtype=dtype)})
