"""Group norms that exporters write as instance norms of reshaped values are group norms."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fxmap
from fxmap.sources.onnx.model import OnnxModel
from fxmap.sources.onnx.spellings.groups import group_norms
from fxmap.testing.planted import randomised

onnx = pytest.importorskip("onnx")
from onnx import helper, numpy_helper  # noqa: E402 - after importorskip

RNG = np.random.default_rng(0)


def net(groups: int = 2) -> nn.Sequential:
    made = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(groups, 4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))
    return randomised(made, 1).eval()


def exported(model: nn.Sequential, name: str = "val", factor: float = 1.0, shape: str = "Shape") -> Any:
    """Make the file that torch's exporters make of such a network, with the names of dynamo."""
    rows: list[tuple[str, list[str], str]] = [
        ("Conv", ["x", "0.weight", "0.bias"], "conv2d"),
        ("Reshape", ["conv2d", "val_4"], "val_5"),
        ("InstanceNormalization", ["val_5", f"{name}_8", f"{name}_11"], "val_12"),
        *([("Shape", ["conv2d"], "val_13")] if shape == "Shape" else []),
        ("Reshape", ["val_12", "val_13"], "val_14"),
        ("Mul", ["val_14", "val_20"], "val_21"),
        ("Add", ["val_21", "val_22"], "group_norm"),
        ("Relu", ["group_norm"], "relu"),
        ("Flatten", ["relu"], "view"),
        ("Gemm", ["view", "4.weight", "4.bias"], "y"),
    ]
    nodes = [helper.make_node(kind, inputs, [output]) for kind, inputs, output in rows[:-1]]
    nodes.append(helper.make_node("Gemm", rows[-1][1], ["y"], transB=1))
    norm = model[1]
    assert isinstance(norm, nn.GroupNorm)
    state, groups = {key: value.numpy() for key, value in model.state_dict().items()}, norm.num_groups
    held = {key: value for key, value in state.items() if not key.startswith("1.")}
    held |= {"val_20": state["1.weight"][:, None, None], "val_22": state["1.bias"][:, None, None]}
    held |= {f"{name}_8": np.full(groups, factor, np.float32), f"{name}_11": np.zeros(groups, np.float32)}
    held |= {"val_4": np.array([0, groups, -1])}
    held |= {} if shape == "Shape" else {"val_13": np.array([2, 4, 6, 6])}
    made = [numpy_helper.from_array(value, key) for key, value in held.items()]
    x, y = helper.make_tensor_value_info("x", 1, [2, 3, 8, 8]), helper.make_tensor_value_info("y", 1, [2, 3])
    graph = helper.make_graph(nodes, "main_graph", [x], [y], made)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


@pytest.mark.parametrize("shape", ["Shape", "constant"])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_group_norm_of_an_exporter_is_mapped_and_proven_with_the_layer_before_it(groups: int, shape: str) -> None:
    src, dst = net(groups), randomised(net(groups), 2)
    mapping = fxmap.load(dst, exported(src, shape=shape))
    assert mapping.ok
    assert not mapping.missing
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.allclose(src(x), dst(x), atol=1e-5)


def test_the_file_computes_what_it_did_and_its_ones_and_zeros_are_no_keys() -> None:
    src = net()
    model, x = OnnxModel(exported(src)), torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.allclose(model(x), src(x), atol=1e-5)
    assert not {"val_8", "val_11"} & set(model.state_dict())


def test_another_number_of_groups_is_a_difference() -> None:
    mapping = fxmap.auto_map(exported(net(2)), randomised(net(4), 2))
    assert not mapping.ok
    assert mapping.proof.differs


@pytest.mark.parametrize(("name", "factor"), [("val", 2.0), ("norm", 1.0)])
def test_an_instance_norm_with_weights_of_its_own_stays_one(name: str, factor: float) -> None:
    model = OnnxModel(exported(net(), name, factor))
    assert not model._reading.groups
    assert f"{name}_8" in model.state_dict()


def test_what_is_reshaped_to_something_else_is_no_group_norm() -> None:
    nodes = list(exported(net()).graph.node)
    known = {"val_4": torch.tensor([0, 2, -1]), "val_8": torch.ones(2), "val_11": torch.zeros(2)}
    (found,) = group_norms(nodes, known).values()
    x = torch.randn(2, 4, 6, 6)
    assert found(x, torch.tensor([2, 4, 36])) is None
    same = found(x, torch.tensor([2, 4, 6, 6]))
    assert same is not None
    assert torch.allclose(same, nn.functional.group_norm(x, 2))
    for other in (torch.tensor([0, 2, 72]), torch.tensor([0, 0, -1]), torch.tensor([8, -1])):
        assert not group_norms(nodes, known | {"val_4": other})
    assert not group_norms(nodes, known | {"val_8": torch.ones(4)})
