"""Alignment beside an exhaustive matcher, on random graphs of at most seven operations."""

import random
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fxmap.graph.opgraph import OpGraph
from fxmap.matching.align.align import align
from fxmap.matching.align.alignment import Alignment, Evidence, Pair
from tests.matching.align.oracle import KINDS, Recipe, build, most_preserved, preserved, without

OPERATIONS = 5


@st.composite
def recipes(draw: st.DrawFn, least: int = 1) -> Recipe:
    """Draw a graph of few kinds, so that branches look alike and ties are frequent."""
    kinds = draw(st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=3, unique=True))
    count = draw(st.integers(least, OPERATIONS))
    chosen = [draw(st.sampled_from(kinds)) for _ in range(count)]
    return Recipe(
        tuple((kind, tuple(draw(st.integers(0, number)) for _ in range(KINDS[kind]))) for number, kind in enumerate(chosen))
    )


def _drawn(rng: random.Random) -> Recipe:
    kinds = [rng.choice(sorted(KINDS)) for _ in range(rng.randint(2, OPERATIONS))]
    return Recipe(tuple((kind, tuple(rng.randint(0, n) for _ in range(KINDS[kind]))) for n, kind in enumerate(kinds)))


def _found(src: OpGraph, dst: OpGraph) -> Mapping[str, str]:
    return {pair.src: pair.dst for pair in align(src, dst).pairs}


@settings(max_examples=60, deadline=None)
@given(recipes(), st.integers(0, 1000))
def test_of_a_renamed_copy_every_edge_is_preserved(recipe: Recipe, seed: int) -> None:
    rng = random.Random(seed)
    src, dst = build(recipe, rng), build(recipe, rng)
    best = most_preserved(src, dst)
    edges = sum(len(values) for _, values in recipe.operations) + len(recipe.sinks)
    assert preserved(src, dst, _found(src, dst)) == best == edges


@settings(max_examples=30, deadline=None)
@given(recipes(least=2), st.data(), st.integers(0, 1000))
def test_with_an_operation_added_or_removed_the_oracle_is_never_beaten(
    recipe: Recipe, data: st.DataObject, seed: int
) -> None:
    rng = random.Random(seed)
    other = without(recipe, data.draw(st.integers(1, len(recipe.operations))))
    more, less = build(recipe, rng), build(other, rng)
    best = most_preserved(more, less)
    assert most_preserved(less, more) == best
    for src, dst in ((more, less), (less, more)):
        assert preserved(src, dst, _found(src, dst)) <= best


def test_with_an_operation_added_or_removed_the_best_matching_is_nearly_always_found() -> None:
    """Where it is not, an operation beside the one that is lacking is of its kind, and is taken for it."""
    rng, graphs = random.Random(0), 150
    short = []
    for _ in range(graphs):
        recipe = _drawn(rng)
        number = rng.randint(1, len(recipe.operations))
        src, dst = build(recipe, rng), build(without(recipe, number), rng)
        lost = most_preserved(src, dst) - preserved(src, dst, _found(src, dst))
        if lost:
            short.append(lost)
            kind = recipe.operations[number - 1][0]
            assert sum(other == kind for other, _ in recipe.operations) > 1
    assert len(short) <= 0.03 * graphs
    assert max(short, default=0) <= 2


@pytest.mark.parametrize("branches", [2, 3])
@pytest.mark.parametrize("kind", ["relu", "linear"])
def test_of_parallel_branches_that_look_alike_each_is_paired_with_one(branches: int, kind: str) -> None:
    operations: list[tuple[str, tuple[int, ...]]] = [(kind, (0,)) for _ in range(branches)]
    operations += [("add", (1, 2))] + ([("add", (3, 4))] if branches == 3 else [])
    recipe, rng = Recipe(tuple(operations)), random.Random(1)
    src, dst = build(recipe, rng), build(recipe, rng)
    found = align(src, dst)
    assert preserved(src, dst, {pair.src: pair.dst for pair in found.pairs}) == most_preserved(src, dst)
    evidence = [pair.evidence for pair in found.pairs if src.op(pair.src).kind == kind]
    assert len(evidence) == branches
    assert Evidence.TIED in evidence


def test_the_oracle_counts_the_edges_that_a_matching_preserves() -> None:
    rng = random.Random(0)
    chain = Recipe((("relu", (0,)), ("tanh", (1,)), ("relu", (2,))))
    src, dst = build(chain, rng), build(without(chain, 2), rng)
    # Three edges are left; that between the two relu has no counterpart.
    assert most_preserved(src, dst) == 2
    assert most_preserved(src, src) == 4
    assert preserved(src, src, {op.name: op.name for op in src.ops()}) == 4
    assert preserved(src, src, {}) == 0


def test_what_has_no_counterpart_is_named() -> None:
    rng = random.Random(0)
    recipe = Recipe((("relu", (0,)), ("linear", (1,)), ("sub", (2, 0))))
    src, dst = build(recipe, rng), build(Recipe(recipe.operations[:2]), rng)
    found = align(src, dst)
    (sub,) = (op.name for op in src.ops() if op.kind == "sub")
    assert (found.src_unmatched, found.dst_unmatched) == ((sub,), ())
    assert f"unmatched in the source: {sub}" in str(found)
    assert found.share == 1.0


def test_only_evidence_that_values_should_confirm_is_weak() -> None:
    weak = {evidence for evidence in Evidence if evidence.weak}
    assert weak == {Evidence.NEIGHBOURHOOD, Evidence.ASSIGNED, Evidence.POSITION, Evidence.TIED}
    assert "(weak)" in str(Alignment((Pair("a", "b", Evidence.POSITION),), 1.0))
    assert "(weak)" not in str(Alignment((Pair("a", "b", Evidence.VALUES),), 1.0))
