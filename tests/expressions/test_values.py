"""Numbers of a checkpoint for which the arithmetic of a mapping is not what was proven: refused, or warned of by name."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import fxmap
from fxmap.expressions.arithmetic import FoldedWeight, Full, IdentityKernel, Scaled, Sum
from fxmap.expressions.base import Expression, Source
from fxmap.expressions.layout import Slice
from fxmap.expressions.quantized import Quantized
from fxmap.expressions.scheme import Scheme
from fxmap.expressions.values import evaluated

A, B = Source("a"), Source("b")
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("expression", "a", "b"),
    [
        (FoldedWeight("linear", A, B, 1e-5), torch.ones(2, 1), torch.tensor([1.0, -1.0])),
        (Scaled(A, 1e6), torch.full((3,), 1000.0, dtype=torch.float16), torch.ones(1)),
        (Sum((A, A)), torch.full((3,), 3e38), torch.ones(1)),
        (Quantized(A, Scheme("qint8", "per_channel_symmetric", 0, -128, 127)), torch.tensor([[NAN], [1.0]]), torch.ones(1)),
        (Quantized(A, Scheme("qint8", "per_tensor_symmetric", 0, -128, 127)), torch.tensor([[INF], [1.0]]), torch.ones(1)),
        (Scaled(A, 2.0), "text", torch.ones(1)),
        (Sum((A, B)), torch.ones(2), torch.ones(3)),
        (Slice(A, 0, 2), torch.tensor(1.0), torch.ones(1)),
        (Full((2**40,), 0.0, A), torch.ones(2), torch.ones(1)),
        (IdentityKernel((2**20, 2**20), 1, A), torch.ones(2), torch.ones(1)),
        (Sum((A, Source("c"))), torch.ones(2), torch.ones(1)),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_what_cannot_be_made_is_refused_with_its_key(expression: Expression, a: Any, b: Any) -> None:
    mapping = fxmap.KeyMapping({"key": expression})
    with pytest.raises((fxmap.MappingError, fxmap.QuantizationError)):
        mapping.apply({"a": a, "b": b})
    with pytest.raises((fxmap.MappingError, fxmap.QuantizationError), match=r"^key = |refused for a weight"):
        evaluated("key", expression, {"a": a, "b": b})


def test_numbers_that_are_no_numbers_in_the_source_already_are_told_with_key_and_count() -> None:
    state = {"a": torch.tensor([1.0, NAN, INF, 2.0])}
    with pytest.warns(fxmap.ProofWarning, match="key: 2 values are NaN or infinite, as are values of a of which"):
        assert evaluated("key", Scaled(A, 2.0), state)[0] == 2


def test_what_is_as_it_was_said_is_not_warned_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert evaluated("key", A, {"a": torch.tensor([NAN])}).isnan().all()  # a rename says what the file says
        assert evaluated("key", Slice(A, 0, 1), {"a": torch.tensor([1.0, -INF])}) == 1
        assert evaluated("key", Full((2,), -INF, A), {"a": torch.ones(2)}).isinf().all()  # what a mask is filled with


def chain() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, 3, 1, bias=False), nn.BatchNorm2d(3))


def folded() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, 3, 1))


@pytest.mark.parametrize("value", [-1.0, -INF])
def test_a_model_with_a_variance_below_0_is_not_folded(value: float) -> None:
    src, dst = chain().eval(), folded()
    mapping = fxmap.auto_map(src, dst, example_inputs=torch.randn(1, 2, 4, 4))
    assert mapping.ok
    src[1].running_var[1] = value
    before = {key: tensor.clone() for key, tensor in dst.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fxmap.ProofWarning)
        if value == -1:
            with pytest.raises(fxmap.MappingError, match=r"0\.weight = .*2 of 6 values.*1\.running_var has 1 below 0"):
                mapping.load_into(dst, src.state_dict())
            assert all(torch.equal(tensor, before[key]) for key, tensor in dst.state_dict().items())


NARROWED: tuple[tuple[torch.Tensor, torch.dtype, bool], ...] = (
    (torch.tensor([1, 300]), torch.int8, False),
    (torch.tensor([-1]), torch.uint8, False),
    (torch.tensor([2**40]), torch.int32, False),
    (torch.tensor([1, 100]), torch.int8, True),
    (torch.tensor([200], dtype=torch.uint8), torch.int8, False),
    (torch.tensor([200], dtype=torch.uint8), torch.int64, True),
    (torch.tensor([1e5]), torch.float16, False),
    (torch.tensor([1e39], dtype=torch.float64), torch.float32, False),
    (torch.tensor([1e39], dtype=torch.float64), torch.bfloat16, False),
    (torch.tensor([1e-30, 3.0, INF, NAN]), torch.float16, True),
    (torch.tensor([1e30], dtype=torch.bfloat16), torch.float32, True),
    (torch.tensor([1e39 + 1j], dtype=torch.complex128), torch.complex64, False),
)


@pytest.mark.parametrize(("value", "dtype", "fits"), NARROWED, ids=str)
def test_numbers_that_a_dtype_does_not_hold_are_refused(value: torch.Tensor, dtype: torch.dtype, fits: bool) -> None:
    dst = nn.Module()
    dst.register_buffer("a", torch.zeros(value.shape, dtype=dtype))
    load: Callable[[], Any] = lambda: fxmap.KeyMapping({"a": "b"}).load_into(dst, {"b": value})  # noqa: E731
    if fits:
        assert load().written == 1
    else:
        with pytest.raises(fxmap.LoadError, match=r"a: 1 of \d values"):
            load()
        assert not dst.a.any()
