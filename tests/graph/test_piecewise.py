"""Functions with pieces are computed exactly: their breaks, what they are between these, and whether two are one."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fxmap.graph import piecewise as p
from fxmap.graph.piecewise import NotPiecewiseError, Piecewise

X = p.line(1.0, 0.0)
ZERO = p.line(0.0, 0.0)

Both = tuple[Piecewise, Callable[[float], float]]

NUMBERS = st.sampled_from([-3.0, -1.0, -0.5, 0.25, 0.5, 1.0, 2.0])


def _grown(of: st.SearchStrategy[Both]) -> st.SearchStrategy[Both]:
    """Return functions of functions, each as pieces and as Python computes it."""
    one = [
        lambda a, c: (p.scaled(a[0], c), lambda x: a[1](x) * c),
        lambda a, c: (p.plus(a[0], p.line(0.0, c)), lambda x: a[1](x) + c),
        lambda a, c: (p.bounded(a[0], c, None), lambda x: max(a[1](x), c)),
        lambda a, c: (p.bounded(a[0], None, c), lambda x: min(a[1](x), c)),
        lambda a, _: (p.absolute(a[0]), lambda x: abs(a[1](x))),
    ]
    two = [
        lambda a, b: (p.plus(a[0], b[0]), lambda x: a[1](x) + b[1](x)),
        lambda a, b: (p.larger(a[0], b[0]), lambda x: max(a[1](x), b[1](x))),
        lambda a, b: (p.chosen(p.above(a[0], ZERO), b[0], a[0]), lambda x: b[1](x) if a[1](x) > 0 else a[1](x)),
        lambda a, b: (p.chosen(p.above(a[0], ZERO, equal=True), a[0], b[0]), lambda x: a[1](x) if a[1](x) >= 0 else b[1](x)),
    ]
    return st.one_of(
        st.builds(lambda f, a, c: f(a, c), st.sampled_from(one), of, NUMBERS),
        st.builds(lambda f, a, b: f(a, b), st.sampled_from(two), of, of),
    )


FUNCTIONS: st.SearchStrategy[Both] = st.recursive(st.just((X, lambda x: x)), _grown, max_leaves=5)


def _at(value: Piecewise, x: float) -> float:
    return value.refined(sorted({*value.breaks, x})).there[sorted({*value.breaks, x}).index(x)].at(x)


@settings(max_examples=150, deadline=None)
@given(FUNCTIONS, st.floats(-9, 9, allow_nan=False))
def test_a_function_has_the_values_of_what_it_is_composed_of(both: Both, x: float) -> None:
    value, computed = both
    # Beside a break, rounding may decide on which side a number is.
    if all(abs(x - point) > 1e-6 or x == point for point in value.breaks):
        assert _at(value, x) == pytest.approx(computed(x), rel=1e-9, abs=1e-9)


@settings(max_examples=150, deadline=None)
@given(FUNCTIONS, FUNCTIONS)
def test_two_functions_of_one_shape_have_the_same_values_everywhere(one: Both, other: Both) -> None:
    if one[0].shape == other[0].shape:
        assert all(
            one[1](x) == pytest.approx(other[1](x), abs=1e-8) for x in (-50.3, -2.9, -0.7, 0.1, 0.3, 0.7, 1.4, 3.2, 77.1)
        )
    else:
        points = sorted({*one[0].breaks, *other[0].breaks})
        inside = [-99.0, *points, *((a + b) / 2 for a, b in pairwise(points)), 99.0, 0.5, 1.5]
        assert any(one[1](x) != other[1](x) for x in inside)


def test_a_break_across_which_nothing_changes_is_none() -> None:
    assert p.plus(p.larger(X, ZERO), p.smaller(X, ZERO)).shape == X.shape
    assert p.larger(X, ZERO).shape.breaks == (0.0,)


def test_the_value_at_a_break_counts() -> None:
    above, from_there = (p.chosen(p.above(X, ZERO, equal=equal), p.line(0.0, 1.0), ZERO) for equal in (False, True))
    assert above.shape != from_there.shape
    assert p.times(X, above).shape == p.times(X, from_there).shape == p.larger(X, ZERO).shape


def test_a_gate_far_out_is_seen() -> None:
    gate = p.plus(X, p.applied(torch.exp, p.plus(X, p.line(0.0, -50.0))))
    assert gate.shape != X.shape


def test_what_compares_curves_has_no_known_breaks() -> None:
    with pytest.raises(NotPiecewiseError, match="no straight line"):
        p.larger(p.times(X, X), ZERO)
