"""Schemes and parameters of quantization that torch's kernels would end the process for, or read past a buffer."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import fxmap
from fxmap.expressions.packing import pack
from fxmap.expressions.qparams import check_packable, check_qparams
from fxmap.expressions.scheme import Scheme

GOOD = Scheme("qint8", "per_channel_symmetric", 0, -128, 127).to_json()

# What a mapping may say, and no kernel of torch can do.
BAD_SCHEMES: tuple[dict[str, Any], ...] = (
    {"dtype": "qint32", "qscheme": "per_channel_affine_float_qparams"},
    {"dtype": "float32"},
    {"dtype": "int8"},
    {"axis": -1},
    {"axis": 10**9},
    {"quant_min": 10**30, "quant_max": 10**31},
    {"quant_min": 5, "quant_max": 5},
    {"quant_min": -129},
    {"eps": float("nan")},
    {"eps": 0.0},
    {"eps": float("inf")},
    {"qscheme": "strided"},
    {"qscheme": "__class__"},
)


@pytest.mark.parametrize("change", BAD_SCHEMES, ids=str)
def test_a_scheme_that_torch_does_not_know_is_refused_when_it_is_read(change: dict[str, Any]) -> None:
    with pytest.raises(fxmap.MappingError):
        Scheme.from_json(GOOD | change)


@pytest.mark.parametrize("dtype", ["qint8", "quint8", "quint4x2"])
@pytest.mark.parametrize("qscheme", ["per_tensor_affine", "per_channel_affine_float_qparams"])
def test_schemes_that_torch_knows_are_read(dtype: str, qscheme: str) -> None:
    scheme = Scheme(dtype, qscheme, 0, 0, 15)
    assert Scheme.from_json(scheme.to_json()) == scheme


LONGS = torch.zeros(2, dtype=torch.int64)


@pytest.mark.parametrize(
    ("dtype", "scales", "zero_points", "axis"),
    [
        (torch.int8, torch.ones(2), LONGS, 0),
        (torch.qint8, torch.ones(3), LONGS, 0),
        (torch.qint8, torch.ones(2), torch.zeros(3, dtype=torch.int64), 0),
        (torch.qint8, torch.ones(2), LONGS, 1),
        (torch.qint8, torch.ones(2), LONGS, 2),
        (torch.qint8, torch.ones(3), torch.zeros(3, dtype=torch.int64), -1),
        (torch.qint8, torch.ones(2, 1), LONGS, 0),
        (torch.qint8, torch.ones(2), LONGS, None),
        (torch.qint8, torch.tensor([1.0, float("nan")]), LONGS, 0),
        (torch.qint8, torch.tensor([1.0, float("inf")]), LONGS, 0),
        (torch.qint8, torch.tensor([1.0, -1.0]), LONGS, 0),
        (torch.qint8, torch.ones(2, dtype=torch.int64), LONGS, 0),
        (torch.qint8, torch.ones(2), LONGS + 128, 0),
        (torch.quint8, torch.ones(2), LONGS - 1, 0),
        (torch.quint4x2, torch.ones(2), LONGS + 16, 0),
        (torch.qint32, torch.ones(2), torch.zeros(2), 0),
        (torch.quint8, torch.ones(2), torch.full((2,), float("nan")), 0),
        (torch.quint8, torch.ones(2), LONGS.bool(), 0),
        (torch.qint8, torch.ones(()), torch.zeros(()), None),
    ],
)
def test_parameters_that_do_not_fit_are_refused(dtype: torch.dtype, scales: Tensor, zero_points: Tensor, axis: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        check_qparams((2, 3), dtype, scales, zero_points, axis)


def test_parameters_of_meta_tensors_are_judged_by_their_shapes() -> None:
    check_qparams((2, 3), torch.qint8, torch.ones(2, device="meta"), LONGS, 0)


def matrix(dtype: torch.dtype = torch.qint8, *shape: int) -> Tensor:
    return torch.quantize_per_tensor(torch.ones(shape or (4, 2)), 0.5, 0, dtype)


def rows(axis: int, points: torch.dtype) -> Tensor:
    count = (4, 2)[axis]
    zero_points = torch.zeros(count, dtype=points)
    return torch.quantize_per_channel(torch.ones(4, 2), torch.ones(count), zero_points, axis, torch.qint8)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize(
    "layer",
    [
        lambda: (torch.ones(4, 2), None),
        lambda: (None, None),
        lambda: (matrix(torch.quint8), None),
        lambda: (matrix(torch.qint8, 4), None),
        lambda: (rows(1, torch.int64), None),
        lambda: (rows(0, torch.float32), None),
        lambda: (matrix(), torch.zeros(3)),
        lambda: (matrix(), torch.zeros(4, 1)),
        lambda: (matrix(), torch.zeros(4, dtype=torch.float16)),
        lambda: (matrix(), matrix()),
    ],
)
def test_layers_that_cannot_be_packed_are_refused(layer: Callable[[], tuple[Any, Any]]) -> None:
    weight, bias = layer()
    with pytest.raises(ValueError, match="packs"):
        check_packable(weight, bias)
    if isinstance(bias, Tensor) and bias.dtype is torch.float16:
        return  # which is made float32 when it is packed
    with pytest.raises(ValueError, match=r"."):
        pack("linear", (weight, bias))
    with pytest.raises(ValueError, match=r"."):
        pack("cell", (weight, matrix(), bias, torch.zeros(4)))


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_a_layer_that_can_be_packed_is() -> None:
    for weight in (matrix(), rows(0, torch.int64)):
        check_packable(weight, None)
        check_packable(weight, torch.zeros(4))


# In a process of its own, which each of these ended before they were checked.
KILLERS = """
import itertools, json, sys, warnings
import torch
from safetensors.torch import save_file
import fxmap
from fxmap.files.quantized import ENTRY
warnings.simplefilter("ignore")
tried = refused = 0
folder = sys.argv[1]

def refuse(work):
    global tried, refused
    tried += 1
    try:
        work()
    except fxmap.FxmapError:
        refused += 1

schemes = [name for name in vars(torch) if isinstance(getattr(torch, name), torch.qscheme)]
kinds = {"qint8": torch.int8, "quint8": torch.uint8, "qint32": torch.int32, "quint4x2": torch.uint8}
for dtype, qscheme, axis, points in itertools.product(kinds, schemes, (None, 0, 1, -1), ("float32", "int64")):
    part = {"a#integers": torch.zeros(2, 3, dtype=kinds[dtype]), "a#scales": torch.ones(2)}
    part["a#zero_points"] = torch.zeros(2, dtype=getattr(torch, points))
    entry = {"quantized": "a", "dtype": dtype, "qscheme": qscheme} | ({} if axis is None else {"axis": axis})
    description = json.dumps({"format": 1, "entries": {"a": entry}, "metadata": None})
    save_file(part, f"{folder}/a.safetensors", metadata={ENTRY: description})
    refuse(lambda: fxmap.load(torch.nn.Linear(3, 2), f"{folder}/a.safetensors", verify=False))
    source = {"op": "source", "key": "a"}
    scheme = {"dtype": dtype, "qscheme": qscheme, "axis": axis or 0, "quant_min": 0, "quant_max": 15, "eps": 1e-6}
    made = {"op": "quantized", "of": source, "scheme": scheme}
    held = {"op": "assembled", "of": source, "scale": {"op": "source", "key": "s"},
            "zero_point": {"op": "source", "key": "z"}, "scheme": scheme}
    for expression in (made, {"op": "requantized", "of": made, "scheme": scheme}, held):
        text = json.dumps({"fxmap": 1, "expressions": {"a": expression}, "knowledge": KNOWN})
        state = {"a": torch.ones(2, 3), "s": part["a#scales"], "z": part["a#zero_points"]}
        refuse(lambda: str(fxmap.KeyMapping.from_json(text).apply(state)))
print(tried, refused)
"""


def test_no_scheme_from_outside_ends_the_process(tmp_path: Any) -> None:
    known = fxmap.KeyMapping({}).to_json()
    script = f"import json\nKNOWN = json.loads({known!r})['knowledge']\n{KILLERS}"
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    tried, refused = map(int, done.stdout.split())
    assert tried > 300
    assert refused > tried / 3
