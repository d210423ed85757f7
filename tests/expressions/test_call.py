"""Applying a mapping and running the Python that is written of it are one execution: the same bits, or the same error."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import fxmap
from fxmap.expressions import functions, packing
from fxmap.expressions.arithmetic import (
    Centred,
    Difference,
    FoldedBias,
    FoldedWeight,
    Full,
    IdentityKernel,
    NeutralVariance,
    Number,
    Product,
    RowScaled,
    Scaled,
    Shifted,
    Size,
    Sum,
    WeightNormed,
)
from fxmap.expressions.base import Expression, Source
from fxmap.expressions.computed import Computed, Stretch
from fxmap.expressions.layout import Columns, Concat, Gather, Permute, Placed, Reshape, Slice, Transpose
from fxmap.expressions.quantized import (
    Assembled,
    Dequantized,
    DequantizedParts,
    Packed,
    PackedObject,
    Quantized,
    QuantizedPart,
    Requantized,
    Unpacked,
)
from fxmap.expressions.scheme import Scheme
from fxmap.expressions.serial import KINDS
from fxmap.expressions.stored import Awq, BlockScaled, Gptq, LookedUp, SpectralNormed, Times
from fxmap.testing.compare import same_value

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64]
MATRIX, VECTOR, KERNEL, SIZES = Source("matrix"), Source("vector"), Source("kernel"), Source("sizes")
HELD, OBJECT, INTEGERS = Source("held"), Source("object"), Source("integers")
CODES, WORDS, GROUPS, WIDE = Source("codes"), Source("words"), Source("groups"), Source("wide")
ROWS_OF_SCALES = Reshape(Source("sizes"), (1, 4))
CHANNELS = Scheme("qint8", "per_channel_symmetric", 0, -128, 127)
WHOLE = Scheme("qint8", "per_tensor_affine", 0, -128, 127)
ROWS = Scheme("quint8", "per_channel_affine_float_qparams", 0, 0, 255)
BOUNDED = Scheme("qint8", "per_channel_symmetric", 9, -128, 127)
PROGRAM = '[["aten.mul.Tensor", [{"value": 0}, {"value": 1}], {}]]'
AFFINE = '[["aten.addmm.default", [{"value": 2}, {"value": 0}, {"value": 1}], {}]]'

CASES: list[Expression] = [
    MATRIX,
    Full((2, 3), 0.5, MATRIX),
    Full((2,), float("inf"), MATRIX),
    Full((2,), 1.0, INTEGERS),
    Number((1,), 7),
    Number((), 0.5),
    NeutralVariance((4,), 1e-3, MATRIX),
    Shifted(MATRIX, 1e-3),
    Difference(MATRIX, VECTOR),
    Scaled(MATRIX, 0.3),
    Sum((MATRIX, VECTOR, MATRIX)),
    *[FoldedWeight(layer, KERNEL, VECTOR, 1e-5, gamma) for layer in ("conv", "conv_transpose") for gamma in (VECTOR, None)],
    FoldedWeight("linear", MATRIX, VECTOR, 1e-5, VECTOR),
    FoldedWeight("linear", MATRIX, VECTOR, 1e-5),
    *[FoldedBias(layer, VECTOR, VECTOR, 1e-5) for layer in ("conv", "conv_transpose", "linear")],
    *[FoldedBias(layer, VECTOR, VECTOR, 1e-5, VECTOR, VECTOR, VECTOR) for layer in ("conv", "conv_transpose", "linear")],
    RowScaled(KERNEL, VECTOR),
    Centred(KERNEL, (3, 5)),
    IdentityKernel((4, 2, 3, 3), 2, MATRIX),
    Product(MATRIX, VECTOR),
    WeightNormed(MATRIX, SIZES, 0),
    Size(MATRIX, 0),
    Size(MATRIX, -1),
    *[Quantized(MATRIX, scheme) for scheme in (CHANNELS, WHOLE, ROWS, BOUNDED)],
    *[Requantized(MATRIX, scheme) for scheme in (CHANNELS, BOUNDED)],
    *[Requantized(HELD, scheme) for scheme in (CHANNELS, WHOLE, ROWS)],
    Requantized(Quantized(MATRIX, ROWS), ROWS),
    Assembled(MATRIX, VECTOR, Number((4,), 0), CHANNELS),
    Assembled(INTEGERS, VECTOR, Number((4,), 0), CHANNELS),
    Assembled(INTEGERS, Number((1,), 0.5), Number((1,), 0), WHOLE),
    Dequantized(MATRIX),
    Dequantized(HELD),
    *[QuantizedPart(HELD, part) for part in ("integers", "scales", "zero_points")],
    *[QuantizedPart(Quantized(MATRIX, WHOLE), part) for part in ("integers", "scales", "zero_points")],
    QuantizedPart(MATRIX, "integers"),
    DequantizedParts(INTEGERS, VECTOR, Number((4,), 1), 0),
    DequantizedParts(INTEGERS, Number((1,), 0.5), Number((1,), 1), -1),
    DequantizedParts(MATRIX, VECTOR, VECTOR, 0),
    Packed(Quantized(MATRIX, CHANNELS), VECTOR),
    Packed(MATRIX),
    PackedObject("linear", (Quantized(MATRIX, CHANNELS), VECTOR)),
    PackedObject("cell", (HELD, HELD, VECTOR, VECTOR)),
    Unpacked(OBJECT, 1),
    Unpacked(Packed(MATRIX, VECTOR), 1),
    Slice(MATRIX, 1, 3),
    Gather(MATRIX, (2, 0)),
    Columns(MATRIX, (1, 0)),
    Placed(Slice(MATRIX, 0, 2), (1, 3), 5),
    Concat((MATRIX, Slice(MATRIX, 0, 1))),
    Reshape(MATRIX, (2, 8, 1, 1)),
    Transpose(MATRIX),
    Permute(MATRIX, (1, 0)),
    Times(MATRIX, VECTOR),
    SpectralNormed(MATRIX, VECTOR, VECTOR, 1),
    BlockScaled(INTEGERS, VECTOR),
    BlockScaled(INTEGERS, Number((1,), 0.5), zero_point=Number((1,), 1)),
    BlockScaled(INTEGERS, MATRIX, (1, 1), MATRIX),
    LookedUp(CODES, VECTOR, VECTOR, 4, 8, (4, 4)),
    LookedUp(CODES, VECTOR, VECTOR, 8, 2, (2, 4)),
    Gptq(WORDS, WORDS, ROWS_OF_SCALES, 4, 1),
    Gptq(WORDS, WORDS, ROWS_OF_SCALES, 8, 0, GROUPS),
    Gptq(WORDS, Columns(WORDS, (0, 1, 2)), ROWS_OF_SCALES, 3, 1),
    Awq(WORDS, WORDS, WIDE, 4),
    Computed((MATRIX, VECTOR), PROGRAM),
    Stretch((MATRIX, VECTOR), AFFINE, ((1, 4),), (0, 2), (1,)),
]


def make_state(dtype: torch.dtype) -> dict[str, Any]:
    rng = torch.Generator().manual_seed(0)
    matrix = torch.randn(4, 4, generator=rng)
    matrix[0, 0] = -0.0
    held = CHANNELS.quantize(matrix)
    floats = {
        "matrix": matrix,
        "vector": torch.rand(4, generator=rng) + 0.5,
        "kernel": torch.randn(4, 4, 1, 3, generator=rng),
        "sizes": torch.rand(4, 1, generator=rng) + 0.5,
    }
    packed = packing.pack("linear", (held, floats["vector"]))
    rest = {"held": held, "integers": held.int_repr(), "object": packed}
    rest |= {
        "codes": torch.randint(0, 4, (2, 4), generator=rng, dtype=torch.uint8),
        "words": torch.randint(-(2**31), 2**31, (3, 4), generator=rng, dtype=torch.int32),
        "groups": torch.zeros(12, dtype=torch.int32),
        "wide": torch.rand(3, 32, generator=rng),
    }
    return {key: value.to(dtype) for key, value in floats.items()} | rest


def by_python(expression: Expression, state: dict[str, Any]) -> Any:
    namespace: dict[str, Any] = {}
    exec(fxmap.KeyMapping({"made": expression}).to_python(), namespace)
    return namespace["convert"](state)["made"]


def by_apply(expression: Expression, state: dict[str, Any]) -> Any:
    try:
        return fxmap.KeyMapping({"made": expression}).apply(state)["made"]
    except fxmap.QuantizationError as error:  # which says in fxmap's words what torch refused
        raise error.__cause__ or error from None


def bits(value: Any) -> Any:
    """Return a value so that == compares it bit for bit: -0 is not 0, and NaN is NaN."""
    if isinstance(value, tuple):
        return tuple(map(bits, value))
    if packing.is_object(value):
        return bits(packing.unpack(value))
    if value is None or value.is_quantized:
        return None if value is None else Held(value)
    return value.dtype, value.device, tuple(value.shape), value.detach().contiguous().flatten().view(torch.uint8).tolist()


class Held:
    """A quantized tensor, compared by its integers, scales and zero points."""

    def __init__(self, value: Tensor) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Held) and same_value(self.value, other.value)

    __hash__ = None  # type: ignore[assignment]


def outcome(run: Any, expression: Expression, state: dict[str, Any]) -> Any:
    try:
        return "value", bits(run(expression, state))
    except Exception as error:
        # By `apply` the error names the key, and the cause is what the written module raises.
        cause = error.__cause__ if isinstance(error, fxmap.MappingError) and error.__cause__ is not None else error
        return "error", type(cause), str(cause)


def test_every_kind_of_expression_has_a_case() -> None:
    assert {type(expression) for expression in CASES} == set(KINDS.values())


@pytest.mark.filterwarnings("ignore:Casting complex values to real")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("expression", CASES, ids=lambda expression: f"{type(expression).__name__}: {expression}")
def test_apply_and_written_python_give_the_same_bits_or_the_same_error(expression: Expression, dtype: torch.dtype) -> None:
    state = make_state(dtype)
    applied = outcome(by_apply, expression, state)
    assert applied == outcome(by_python, expression, state)
    if dtype is torch.float32 and getattr(expression, "scheme", None) is not BOUNDED:
        assert applied[0] == "value", applied


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "expression",
    [Full((2,), 0.5, MATRIX), NeutralVariance((2,), 1e-3, MATRIX), IdentityKernel((2, 2), 1, MATRIX)],
    ids=str,
)
def test_what_the_source_does_not_have_is_of_the_dtype_of_what_it_stands_beside(
    expression: Expression, dtype: torch.dtype
) -> None:
    state = make_state(dtype)
    assert by_apply(expression, state).dtype is by_python(expression, state).dtype is dtype


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_neutral_variance_makes_one_with_eps_in_every_dtype(dtype: torch.dtype) -> None:
    made = NeutralVariance((3,), 1e-3, MATRIX).evaluate(make_state(dtype))
    assert bool((made + 1e-3 == 1).all())


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_beside_integers_it_is_float32(dtype: torch.dtype) -> None:
    state = {"matrix": torch.zeros(2, 2, dtype=dtype)}
    assert by_apply(Full((2,), 0.5, MATRIX), state).dtype is by_python(Full((2,), 0.5, MATRIX), state).dtype is torch.float32


def grown(inner: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
    """Expressions of 4x4 matrices, made of others."""
    numbers = st.floats(-2, 2, width=32)
    return st.one_of(
        st.builds(Shifted, inner, numbers),
        st.builds(Scaled, inner, numbers),
        st.builds(Difference, inner, inner),
        st.builds(Product, inner, inner),
        st.builds(Transpose, inner),
        st.builds(lambda parts: Sum(tuple(parts)), st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda a, b, at: Concat((Slice(a, 0, at), Slice(b, at, 4))), inner, inner, st.integers(0, 4)),
        st.builds(lambda a, rows: Gather(a, tuple(rows)), inner, st.permutations(range(4))),
        st.builds(lambda a, rows: Columns(a, tuple(rows)), inner, st.permutations(range(4))),
        st.builds(lambda a: Dequantized(Quantized(a, WHOLE)), inner),
    )


@pytest.mark.filterwarnings("ignore:Casting complex values to real")
@given(expression=st.recursive(st.just(MATRIX), grown, max_leaves=6), dtype=st.sampled_from(DTYPES))
@settings(max_examples=60, deadline=None)
def test_nested_expressions_are_written_as_they_are_applied(expression: Expression, dtype: torch.dtype) -> None:
    state = make_state(dtype)
    assert outcome(by_apply, expression, state) == outcome(by_python, expression, state)


def test_written_python_runs_where_fxmap_is_not_installed(tmp_path: Path) -> None:
    mapping = fxmap.KeyMapping({str(number): expression for number, expression in enumerate(CASES)})
    (tmp_path / "convert.py").write_text(mapping.to_python())
    script = "import sys; sys.modules['fxmap'] = None; import convert; print(convert.convert.__name__)"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "convert", done.stderr
    tree = ast.parse(mapping.to_python())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert {str(name).split(".")[0] for name in imported} == {"torch", "collections", "json", "typing", "warnings"}


def test_only_what_is_called_is_written() -> None:
    written = fxmap.KeyMapping({"a": Full((2,), 0.0, MATRIX), "b": Slice(MATRIX, 0, 1)}).to_python()
    defined = [node.name for node in ast.parse(written).body if isinstance(node, ast.FunctionDef)]
    assert defined == ["dtype_like", "full", "convert"]
    assert "state['matrix'][0:1]" in written


def test_no_two_functions_that_may_be_written_have_one_name() -> None:
    names = [
        node.name
        for module in (functions, packing)
        for node in ast.parse(inspect.getsource(module)).body
        if isinstance(node, ast.FunctionDef)
    ]
    assert len(names) == len(set(names))
    assert not set(names) & {"convert", "state"}
