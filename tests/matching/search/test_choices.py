"""The choices of the search: which orders are tried, and what a choice takes back."""

from itertools import permutations

from torch import fx

from fxmap.matching.search.choices import LIMITS, Choices, other_orders
from fxmap.matching.search.layers import RecordedLayer


def _layer(name: str, likeness: int = 0) -> RecordedLayer:
    node = fx.Graph().placeholder("x")
    return RecordedLayer(name, "linear", node, (), node, None, -1, (likeness,) * 4)


def test_every_other_order_of_a_small_group_is_tried_once_and_exchanges_of_two_come_first() -> None:
    layers = [_layer(name) for name in "qkv"]
    orders = ["".join(layer.name for layer in order) for order in other_orders(layers, layers)]
    assert orders[:3] == ["kqv", "vkq", "qvk"]
    assert sorted(orders) == sorted("".join(order) for order in permutations("qkv") if order != tuple("qkv"))


def test_of_a_large_group_exchanges_of_two_alone_are_tried() -> None:
    layers = [_layer(str(number)) for number in range(LIMITS.permuted + 1)]
    orders = list(other_orders(layers, layers))
    assert all(sum(one is not other for one, other in zip(order, layers, strict=True)) == 2 for order in orders)
    assert len(orders) == len(layers) * (len(layers) - 1) // 2
    many = [_layer(str(number)) for number in range(40)]
    assert len(list(other_orders(many, many))) == LIMITS.exchanges


def test_the_pair_of_the_alignment_is_chosen_first_and_later_choices_are_taken_back() -> None:
    choices = Choices({"x": "b", "y": "a"})
    sources = [_layer("a"), _layer("b")]
    for name in "xy":
        choices.choose(_layer(name), sources, sources)
    assert {name: partner.name for name, partner in choices.partners.items()} == {"x": "b", "y": "a"}
    (group,) = choices.groups.values()
    choices.choose(_layer("z", 1), [], [_layer("c", 2)])
    assert "z" not in choices.partners  # nothing fits, and nothing resembles it
    choices.choose(_layer("z", 1), [], [_layer("c", 1)])
    choices.retake(group, reversed(choices.of(group)), later={"x", "y", "z"})
    assert {name: partner.name for name, partner in choices.partners.items()} == {"x": "a", "y": "b"}


def test_what_an_exchange_has_shown_is_tried_first_in_the_next_layer_that_looks_the_same() -> None:
    choices = Choices({"x": "b", "u": "d"})
    choices.choose(_layer("x", 7), [_layer("a", 1), _layer("b", 2)], [])
    (group,) = choices.groups.values()
    choices.retake(group, [_layer("a", 1)], later=set())
    choices.learn(group)
    choices.choose(_layer("u", 7), [_layer("d", 2), _layer("c", 1)], [])
    assert choices.partners["u"].name == "c"
