"""A length is analytic where it is squared, or where it is a stored tensor's."""

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
