"""Factors: the constants by which two models multiply, one of which may stand between a solved number and the source's.

A model that scales its embeddings, or subtracts where the other adds, has weights that are a constant times the other's.
The constant is written in one of the graphs, so that few have to be tried.
"""

import math
from collections.abc import Iterator

from torch import Tensor, fx

from fxmap.capture.captured import Captured
from fxmap.graph.kinds import Trait, has, kind_of

# So many constants are tried, and none that is as small as what keeps a divisor from 0.
_MOST, _LEAST = 12, 1e-4


def factors(*networks: Captured) -> tuple[float, ...]:
    """Return -1, and the constants by which the networks multiply or divide, with both signs, and their reciprocals.

    >>> from torch import nn
    >>> from fxmap.capture.symbolic import capture_symbolic
    >>> class Doubled(nn.Module):
    ...     def forward(self, x):
    ...         return 2 * x
    >>> factors(capture_symbolic(Doubled()))
    (-1.0, 2.0, -2.0, 0.5, -0.5)
    """
    found = dict.fromkeys([1.0, *(number for network in networks for number in _numbers(network))])
    positive = [one for number in found for one in (number, 1 / number)][: 2 * _MOST]
    return tuple(dict.fromkeys(one for number in positive for one in (number, -number) if one != 1.0))


def _numbers(network: Captured) -> Iterator[float]:
    """Yield the sizes of the constants by which a network multiplies."""
    for node in network.graph.nodes:
        if node.op != "call_function" or not has(kind_of(node), Trait.PRODUCT):
            continue
        for argument in node.args:
            number = _number(network, argument)
            if number is not None and math.isfinite(number) and abs(number) > _LEAST:
                yield abs(number)


def _number(network: Captured, argument: object) -> float | None:
    if isinstance(argument, fx.Node) and argument.op == "get_attr":
        constant = network.constants.get(str(argument.target))
        single = isinstance(constant, Tensor) and constant.numel() == 1 and not constant.is_complex()
        return float(constant) if constant is not None and single else None
    return float(argument) if isinstance(argument, int | float) and not isinstance(argument, bool) else None
