"""The text of an expression is read as what it prints, or refused."""

import pytest

import fxmap
from fxmap.expressions.arithmetic import FoldedWeight, Scaled, Sum
from fxmap.expressions.base import Expression, Source
from fxmap.expressions.layout import Concat, Gather, Permute, Reshape, Slice, Transpose
from fxmap.expressions.text import read

A, B = Source("layers.0.q-proj.weight"), Source("b:0")


@pytest.mark.parametrize(
    "expression",
    [
        A,
        Source(""),
        Slice(A, 0, 8),
        Slice(Slice(A, 4, 8), 1, 2),
        Concat((A, Slice(B, 1, 3), Transpose(A))),
        Reshape(Concat((A, B)), (2, 3, 1, 1)),
        Permute(A, (3, 2, 0, 1)),
        Sum((A, B, Slice(A, 0, 1))),
        Scaled(A, 0.5),
        Transpose(Sum((A, Scaled(B, 2.0)))),
    ],
    ids=str,
)
def test_what_is_printed_is_read(expression: Expression) -> None:
    assert read(str(expression)) == expression


@pytest.mark.parametrize(
    "text",
    [
        str(Gather(A, (2, 0))),
        str(FoldedWeight("conv", A, B, 1e-5)),
        "a[0:8",
        "a[8:0]",
        "a[-1:2]",
        "concat(a, b",
        "concat(a b)",
        "transpose(a, b)",
        "reshape(a)",
        "(a)",
        "a + ",
        "[0:2]",
        "a * b",
        "concat()",
        "sin(a)",
        "concat(" * 5000,
    ],
    ids=lambda text: text[:30],
)
def test_what_does_not_say_an_expression_in_full_is_refused(text: str) -> None:
    with pytest.raises(fxmap.MappingError, match=r"dst\.weight: .* is no key"):
        fxmap.KeyMapping({"dst.weight": text})
