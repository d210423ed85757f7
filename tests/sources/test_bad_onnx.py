"""ONNX files with what is not understood: named, mapped as far as it goes, and never a stack trace."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fxmap
from fxmap.sources.onnx.model import OnnxModel, open_onnx

onnx = pytest.importorskip("onnx")
from onnx import helper, numpy_helper  # noqa: E402 - after importorskip

RNG = np.random.default_rng(0)


def proto(*nodes: Any, opset: int = 18, outputs: tuple[str, ...] = ("y",), **initializers: Any) -> Any:
    made = [numpy_helper.from_array(np.array(value, dtype=np.float32), name) for name, value in initializers.items()]
    x = helper.make_tensor_value_info("x", 1, [2, 4])
    graph = helper.make_graph(
        list(nodes), "net", [x], [helper.make_tensor_value_info(name, 1, None) for name in outputs], made
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("com.custom", 1)])


def linear(x: str, weight: str, y: str) -> Any:
    return helper.make_node("Gemm", [x, weight], [y], transB=1)


def weight() -> Any:
    return RNG.standard_normal((4, 4))


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.b(torch.tanh(self.a(x)))
        return result


LOOP = helper.make_node(
    "Loop", ["", "", "h"], ["k"], body=helper.make_graph([], "body", [], [helper.make_tensor_value_info("o", 1, None)])
)
SEQUENCE = helper.make_node("SequenceConstruct", ["h"], ["k"])
CUSTOM = helper.make_node("Turn", ["h"], ["k"], domain="com.custom")


@pytest.mark.parametrize(("node", "name"), [(LOOP, "Loop"), (SEQUENCE, "SequenceConstruct"), (CUSTOM, r"com\.custom\.Turn")])
def test_what_lies_before_an_unknown_operator_is_mapped_and_the_rest_is_named(node: Any, name: str) -> None:
    tanh = helper.make_node("Tanh", ["g"], ["h"])
    src = proto(linear("x", "one", "g"), tanh, node, linear("k", "two", "y"), one=weight(), two=weight())
    mapping = fxmap.auto_map(src, Two())
    assert mapping.renames.get("a.weight") == "one"
    assert "b.weight" not in mapping
    assert not mapping.ok
    assert any(name.replace("\\", "") in str(note) for note in mapping.knowledge.notes)


def test_an_unknown_operator_at_the_end_stands_against_a_proof() -> None:
    src = proto(
        linear("x", "one", "g"),
        helper.make_node("Tanh", ["g"], ["h"]),
        linear("h", "two", "k"),
        helper.make_node("Turn", ["k"], ["y"], domain="com.custom"),
        one=weight(),
        two=weight(),
    )
    mapping = fxmap.auto_map(src, Two())
    assert mapping.renames == {"a.weight": "one", "b.weight": "two"}
    assert not mapping.proof.ok
    assert "com.custom.Turn" in mapping.proof.reason


def test_an_opset_that_is_too_old_is_named() -> None:
    with pytest.raises(fxmap.CheckpointError, match="opset 7"):
        OnnxModel(proto(linear("x", "w", "y"), opset=7, w=weight()))


def test_missing_data_beside_a_file_are_named(tmp_path: Path) -> None:
    onnx.save(
        proto(linear("x", "w", "y"), w=weight()),
        tmp_path / "a.onnx",
        save_as_external_data=True,
        location="numbers.bin",
        size_threshold=0,
    )
    (tmp_path / "numbers.bin").unlink()
    with pytest.raises(fxmap.CheckpointError, match=r"a\.onnx.*numbers\.bin"):
        open_onnx(tmp_path / "a.onnx")


def test_unused_and_shared_initializers_are_keys_like_others() -> None:
    src = proto(
        linear("x", "one", "g"),
        helper.make_node("Tanh", ["g"], ["h"]),
        linear("h", "one", "y"),
        one=weight(),
        unused=weight(),
    )
    mapping = fxmap.auto_map(src, Two())
    assert mapping.renames == {"a.weight": "one", "b.weight": "one"}
    assert "unused" in mapping.unexpected


def branch(output: str, *nodes: Any, **initializers: Any) -> Any:
    held = [numpy_helper.from_array(np.array(value, dtype=np.float32), name) for name, value in initializers.items()]
    return helper.make_graph(list(nodes), output, [], [helper.make_tensor_value_info(output, 1, None)], held)


def behind_tanh(*nodes: Any, **initializers: Any) -> Any:
    return proto(
        linear("x", "one", "g"), helper.make_node("Tanh", ["g"], ["h"]), *nodes, one=weight(), two=weight(), **initializers
    )


def chosen(condition: str) -> Any:
    """Make a choice between two layers whose weights are inside, an initializer in one and a `Constant` in the other."""
    inner = helper.make_node("Constant", [], ["hidden"], value=numpy_helper.from_array(np.float32(weight()), "hidden"))
    then = branch("t", linear("h", "deep", "t"), deep=weight())
    return helper.make_node(
        "If", [condition], ["y"], then_branch=then, else_branch=branch("e", inner, linear("h", "hidden", "e"))
    )


@pytest.mark.parametrize(("condition", "name"), [(True, "deep"), (False, "hidden")])
def test_weights_in_a_branch_that_is_always_taken_are_keys(condition: bool, name: str) -> None:
    src = behind_tanh(chosen("c"))
    src.graph.initializer.append(numpy_helper.from_array(np.array(condition), "c"))
    mapping = fxmap.load(dst := Two(), src, strict=False)
    assert mapping.ok
    assert mapping.renames == {"a.weight": "one", "b.weight": name}
    assert dst.b.weight.abs().sum() > 0


def test_weights_in_branches_that_inputs_decide_are_named() -> None:
    nodes = [
        helper.make_node("ReduceSum", ["h"], ["s"], keepdims=0),
        helper.make_node("Greater", ["s", "zero"], ["c"]),
        chosen("c"),
    ]
    mapping = fxmap.auto_map(behind_tanh(*nodes, zero=0.0), Two())
    assert mapping.renames.get("a.weight") == "one"
    assert not mapping.ok
    assert "weights inside of branches or loops of the file, which are no keys: hidden, deep" in str(mapping.knowledge.notes)


def test_weights_that_are_constants_of_the_graph_are_keys() -> None:
    held = helper.make_node("Constant", [], ["kernel"], value=numpy_helper.from_array(np.float32(weight()), "any"))
    mapping = fxmap.auto_map(behind_tanh(held, linear("h", "kernel", "y")), Two())
    assert mapping.ok
    assert mapping.renames == {"a.weight": "one", "b.weight": "kernel"}


@pytest.mark.parametrize("change", [{"raw_data": b"123"}, {"dims": [2**31, 2**31]}, {"data_type": 0}, {"data_type": 77}])
def test_a_tensor_whose_numbers_do_not_fit_is_named(change: dict[str, Any], tmp_path: Path) -> None:
    src = proto(linear("x", "one", "y"), one=weight())
    held = src.graph.initializer[0]
    for field, value in change.items():
        if field == "dims":
            held.dims[:] = value
        else:
            setattr(held, field, value)
    (tmp_path / "a.onnx").write_bytes(src.SerializeToString())
    with pytest.raises(fxmap.CheckpointError, match=r"a\.onnx: one: no tensor of the shape"):
        fxmap.auto_map(tmp_path / "a.onnx", Two())


@pytest.mark.parametrize("kind", ["Expand", "Tile", "ConstantOfShape", "Pad"])
def test_a_graph_that_asks_for_more_than_the_memory_is_not_run(kind: str) -> None:
    size = np.array({"Pad": [0, 2**40, 0, 0], "Tile": [2**40, 1]}.get(kind, [2**40, 2, 4]))
    inputs = ["size"] if kind == "ConstantOfShape" else ["h", "size"]
    src = behind_tanh(helper.make_node(kind, inputs, ["k"]), helper.make_node("ReduceMax", ["k"], ["y"]))
    src.graph.initializer.append(numpy_helper.from_array(size, "size"))
    with pytest.raises(ValueError, match="more than"):
        OnnxModel(src)(torch.ones(2, 4))
    assert not fxmap.auto_map(src, Two()).ok


def test_an_input_of_any_size_is_not_made() -> None:
    src = proto(linear("x", "one", "y"), one=weight())
    src.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2**40
    with pytest.raises(fxmap.CheckpointError, match="an input of the shape"):
        fxmap.auto_map(src, Two())


def test_a_function_that_the_file_defines_is_read_where_it_is_called() -> None:
    body = helper.make_node("Tanh", ["a"], ["b"])
    src = proto(
        linear("x", "one", "g"),
        helper.make_node("Turn", ["g"], ["h"], domain="com.custom"),
        linear("h", "two", "y"),
        one=weight(),
        two=weight(),
    )
    src.functions.append(helper.make_function("com.custom", "Turn", ["a"], ["b"], [body], [helper.make_opsetid("", 18)]))
    mapping = fxmap.auto_map(src, Two())
    assert mapping.ok
    assert mapping.renames == {"a.weight": "one", "b.weight": "two"}


@pytest.mark.parametrize("name", ["absent", "y"], ids=["nothing makes it", "made of itself"])
def test_what_lies_before_a_value_that_nothing_makes_is_mapped_and_the_rest_is_named(name: str) -> None:
    mapping = fxmap.auto_map(behind_tanh(linear("h", name, "y")), Two())
    assert mapping.renames == {"a.weight": "one"}
    assert f"Gemm, which reads '{name}', which nothing makes before it" in str(mapping.knowledge.notes)


def test_an_output_that_nothing_makes_is_refused_by_name() -> None:
    with pytest.raises(fxmap.CheckpointError, match="outputs of which none is made"):
        OnnxModel(proto(linear("x", "one", "g"), outputs=("nowhere",), one=weight()))
