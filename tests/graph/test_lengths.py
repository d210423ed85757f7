"""A length is analytic where it is squared, or where it is a stored tensor's."""

import pytest

from fxmap.graph.opgraph import TENSOR, Op, OpGraph
from fxmap.graph.pieces import pieces_of


def _length(operand: Op, reader: Op, *attributes: tuple[str, object]) -> bool:
    graph = OpGraph()
    for op in (operand, Op("n", "linalg_vector_norm", attributes), reader):
        graph.add(op)
    graph.network.add_edge(operand.name, "n", argument="input")
    graph.network.add_edge("n", reader.name, argument="input")
    return pieces_of(graph, {})["n"].analytic


def test_a_length_has_a_corner_unless_it_is_squared_or_of_a_stored_tensor() -> None:
    value, stored = Op("x", "input"), Op("x", TENSOR, key="x", shape=(4, 3))
    assert not _length(value, Op("y", "tanh"))
    assert _length(value, Op("y", "square"))
    assert _length(stored, Op("y", "tanh"))


def test_another_length_has_corners_wherever_a_number_is_0() -> None:
    value, stored = Op("x", "input"), Op("x", TENSOR, key="x", shape=(4, 3))
    assert not _length(value, Op("y", "square"), ("ord", 1))
    assert not _length(stored, Op("y", "tanh"), ("ord", 1))


def _made(of: Op, kind: str) -> bool:
    graph = OpGraph()
    for op in (
        Op("w", TENSOR, key="w", shape=(4, 3)),
        of,
        Op("y", "add"),
        Op("s", "square"),
        Op("n", kind),
        Op("z", "tanh"),
    ):
        graph.add(op)
    operand = "y" if kind == "linalg_vector_norm" else "s"
    for one, other in (("w", "y"), (of.name, "y"), ("y", "s"), (operand, "n"), ("n", "z")):
        graph.network.add_edge(one, other, argument="input")
    return pieces_of(graph, {})["n"].analytic


@pytest.mark.parametrize("kind", ["linalg_vector_norm", "sqrt"])
def test_a_length_of_what_stored_tensors_alone_make_has_no_corner(kind: str) -> None:
    assert _made(Op("v", TENSOR, key="v", shape=(4, 3)), kind)
    assert not _made(Op("v", "input"), kind)


def test_the_variance_of_two_results_is_not_negative_and_the_mean_may_be() -> None:
    graph = OpGraph()
    for op in (Op("x", "input"), Op("v", "var_mean"), Op("m", "getitem", (("index", 1),)), Op("r", "sqrt"), Op("q", "sqrt")):
        graph.add(op)
    for name, eps, root in (("v", "a", "r"), ("m", "b", "q")):
        graph.add(Op(eps, "add", (("other", 1e-5),)))
        graph.network.add_edge(name, eps, argument="input")
        graph.network.add_edge(eps, root, argument="input")
    graph.network.add_edge("x", "v", argument="input")
    graph.network.add_edge("v", "m", argument="values")
    pieces = pieces_of(graph, {})
    assert pieces["r"].analytic
    assert not pieces["q"].analytic


@pytest.mark.parametrize(("mode", "analytic"), [("mean", True), (0, True), ("max", False), (2, False)])
def test_bags_of_rows_are_analytic_but_for_the_largest(mode: object, analytic: bool) -> None:
    graph = OpGraph()
    for op in (Op("i", "input"), Op("b", "embedding_bag", (("mode", mode),))):
        graph.add(op)
    graph.network.add_edge("i", "b", argument="input")
    assert pieces_of(graph, {})["b"].analytic is analytic
