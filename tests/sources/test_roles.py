"""Single numbers of an ONNX graph: weights where an operator reads them as such, constants elsewhere."""

from typing import Any

import numpy as np
import pytest
import torch

from fxmap.sources.onnx.model import OnnxModel

onnx = pytest.importorskip("onnx")
from onnx import helper, numpy_helper  # noqa: E402 - after importorskip


def model(*nodes: Any, shape: tuple[int, ...] = (1, 3), **initializers: Any) -> OnnxModel:
    made = [numpy_helper.from_array(np.array(value, dtype=np.float32), name) for name, value in initializers.items()]
    x = helper.make_tensor_value_info("x", 1, list(shape))
    y = helper.make_tensor_value_info(nodes[-1].output[0], 1, None)
    graph = helper.make_graph(list(nodes), "net", [x], [y], made)
    return OnnxModel(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]))


def test_a_bias_and_a_slope_of_one_number_are_weights() -> None:
    gemm = helper.make_node("Gemm", ["x", "fc", "val_1"], ["h"], transB=1)
    slope = helper.make_node("PRelu", ["h", "val_2"], ["y"])
    found = model(gemm, slope, fc=np.ones((1, 3)), val_1=[0.5], val_2=[0.25])
    assert set(found.state_dict()) == {"fc", "val_1", "val_2"}
    assert found(-torch.ones(1, 3)).item() == pytest.approx(-0.625)


def test_a_factor_is_a_weight_unless_its_name_was_made_up_by_an_exporter() -> None:
    product = [helper.make_node("Mul", ["x", "gate"], ["h"]), helper.make_node("Mul", ["h", "val_3"], ["y"])]
    assert set(model(*product, gate=[2.0], val_3=0.125).state_dict()) == {"gate"}


def test_a_factor_that_is_called_as_the_operation_that_made_it_is_no_weight() -> None:
    quotient = [helper.make_node("Div", ["x", "sqrt"], ["h"]), helper.make_node("Mul", ["h", "scale"], ["y"])]
    found = model(*quotient, sqrt=2.0, scale=[3.0])
    assert set(found.state_dict()) == {"scale"}
    assert found(torch.ones(1, 3)).flatten().tolist() == [1.5] * 3


def test_scales_of_a_resize_are_no_weights() -> None:
    resize = helper.make_node(
        "Resize", ["x", "", "scales"], ["y"], coordinate_transformation_mode="asymmetric", nearest_mode="floor"
    )
    found = model(resize, shape=(1, 2, 3, 3), scales=[1.0, 1.0, 2.0, 2.0])
    assert not found.state_dict()
    assert found(torch.ones(1, 2, 3, 3)).shape == (1, 2, 6, 6)


def test_inputs_of_other_extents_than_the_file_declares_are_refused_as_onnxruntime_does() -> None:
    with pytest.raises(ValueError, match=r"x: the file declares the shape \[1, 3\], not \[2, 3\]"):
        model(helper.make_node("Neg", ["x"], ["y"]))(torch.ones(2, 3))
