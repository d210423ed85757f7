"""The proven map of every pair: how each destination key is made from source keys.

`truth.json.xz` holds {pair: {"map": {destination key: expression}, "unread": [keys that the output does not depend on]}};
counters of batches are left out. An expression is a source key, or a list of an operation and its arguments, such as
["chunk", "qkv.weight", 1, 3, 0].

>>> import torch
>>> evaluate(["slice", ["cat", 0, "q", "k"], 0, 1, 3], {"q": torch.tensor([1, 2]), "k": torch.tensor([3, 4])})
tensor([2, 3])
"""

import json
import lzma
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import torch
from torch import Tensor

State = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Truth:
    """What is known of a pair: the expression of each destination key, and the keys that nothing reads."""

    expressions: Mapping[str, Any]
    unread: frozenset[str]

    def sources(self, key: str) -> set[str]:
        """Return the source keys that a destination key is made of, and the names of operations."""
        return set(_strings(self.expressions[key]))

    def values(self, state: State) -> dict[str, Tensor]:
        """Make the destination's tensors from a state dict of the source."""
        return {key: evaluate(expression, state) for key, expression in self.expressions.items()}


@cache
def _file() -> dict[str, Any]:
    data = (resources.files("benchmarks.registry") / "truth.json.xz").read_bytes()
    return json.loads(lzma.decompress(data))  # type: ignore[no-any-return]


def truth_of(pair: str) -> Truth | None:
    """Return what is known of a pair, or None: then equality of the functions alone decides."""
    entry = _file().get(pair)
    return None if entry is None else Truth(entry["map"], frozenset(entry.get("unread", ())))


def _strings(expression: Any) -> Iterator[str]:
    if isinstance(expression, str):
        yield expression
    elif isinstance(expression, list):
        for part in expression:
            yield from _strings(part)


def evaluate(expression: Any, state: State) -> Tensor:
    """Make one destination tensor."""
    if isinstance(expression, str):
        return state[expression]
    operation, *arguments = expression
    return _OPERATIONS[operation](state, *arguments)


def _cat(state: State, dim: int, *parts: Any) -> Tensor:
    return torch.cat([evaluate(part, state) for part in parts], dim)


def _folded_weight(state: State, weight: Any, gamma: Any, var: Any, eps: float) -> Tensor:
    value = evaluate(weight, state)
    scale = evaluate(gamma, state) / torch.sqrt(evaluate(var, state) + eps)
    return value * scale.reshape(-1, *[1] * (value.dim() - 1))


def _folded_bias(state: State, bias: Any, gamma: Any, beta: Any, mean: Any, var: Any, eps: float) -> Tensor:
    offset = 0 if bias is None else evaluate(bias, state)
    scale = evaluate(gamma, state) / torch.sqrt(evaluate(var, state) + eps)
    return (offset - evaluate(mean, state)) * scale + evaluate(beta, state)


_OPERATIONS: dict[str, Callable[..., Tensor]] = {
    "cat": _cat,
    "chunk": lambda state, of, index, count, dim: evaluate(of, state).chunk(count, dim)[index],
    "slice": lambda state, of, dim, start, stop: evaluate(of, state).narrow(dim, start, stop - start),
    "t": lambda state, of: evaluate(of, state).transpose(0, 1),
    "view": lambda state, of, shape: evaluate(of, state).reshape(shape),
    "zeros": lambda state, shape: torch.zeros(shape),
    "add": lambda state, first, second: evaluate(first, state) + evaluate(second, state),
    "adds": lambda state, of, amount: evaluate(of, state) + amount,
    "idx": lambda state, of, dim, index: evaluate(of, state).index_select(dim, torch.tensor(index)),
    "flipchunks": lambda state, of, dim, count: torch.cat(evaluate(of, state).chunk(count, dim)[::-1], dim),
    "foldw": _folded_weight,
    "foldb": _folded_bias,
}
