"""Facts about the destination's keys that need no source model: from its graph, and from a run.

Before keys are matched, `ask` finds keys that the destination never reads, and keys that may be exchanged without any
effect, so that their order does not matter. After that, `run_with` tries whether it runs with the mapped weights.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fxmap.errors import CaptureError, QuantizationError
from fxmap.graph.opgraph import TENSOR
from fxmap.mapping.key_mapping import KeyMapping
from fxmap.mapping.proof import TOLERANCE
from fxmap.matching.align.symmetry import exchange, exchanged, rivals
from fxmap.matching.keys.exchanges import Exchange
from fxmap.matching.sides import Side, side
from fxmap.model.budget import Budget, budget
from fxmap.model.faults import said
from fxmap.model.inputs import Inputs
from fxmap.model.replica import replicate
from fxmap.model.restoring import let_through
from fxmap.model.tensors import outputs_of
from fxmap.model.wrappers import unwrap
from fxmap.normalize.network import Network
from fxmap.run.calibrator import run_calibrated
from fxmap.run.distance import distance, is_telling
from fxmap.run.example_inputs import find_inputs
from fxmap.run.guessed import guess_inputs
from fxmap.run.interpreter import ValueInterpreter
from fxmap.run.randomize import random_tensors

logger = logging.getLogger(__name__)

# Whether the destination runs at all is told for information: a guess that takes longer is not worth it.
_SHORT = Budget(seconds=10)


@dataclass(frozen=True)
class Norm:
    """A batch norm behind a layer: the layer's weight and bias, the keys of the norm's own tensors by name, and its eps."""

    weight: str
    bias: str | None
    parts: dict[str, str]
    eps: float


@dataclass(frozen=True)
class KeyFacts:
    """Facts about a destination's keys from its graph.

    `unread` are the keys that it never reads in eval mode. Each of `exchanges` swaps the keys of two branches that compute
    the same function of the same values, and whose results are used in the same way: to exchange them has no effect.
    `norms` are the batch norms that can be folded into the layer before them. `calls` are the places in the graph, in the
    order of execution, at which keys are read first.
    """

    unread: frozenset[str] = frozenset()
    exchanges: tuple[Exchange, ...] = ()
    norms: tuple[Norm, ...] = ()
    calls: dict[str, int] = field(default_factory=dict)


def ask(model: nn.Module) -> KeyFacts:
    """Read facts about the keys from a destination's graph; they are empty if it has no graph.

    >>> class Sum(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.one, self.two, self.idle = (nn.Linear(2, 2, bias=False) for _ in range(3))
    ...     def forward(self, x):
    ...         return self.one(x) + self.two(x)
    >>> ask(Sum())  # doctest: +ELLIPSIS
    KeyFacts(unread=frozenset({'idle.weight'}), exchanges=({'one.weight': 'two.weight'},), norms=(), calls={...})
    """
    try:
        known = side(model)
    except (CaptureError, QuantizationError) as error:
        logger.info("what the destination does with its keys is not known: %s", error)
        return KeyFacts()
    keys = (key for key in known.model.state_dict() if key in known.twin.stores)
    unread = frozenset(known.prefix + key for key in keys if known.main.read.isdisjoint(known.names(key)))
    return KeyFacts(unread, tuple(_exchanges(known)), tuple(_norms(known)), _calls(known))


def _calls(known: Side) -> dict[str, int]:
    """Return, for each key, the position of the first node of the graph that computes with it."""
    order = {node.name: number for number, node in enumerate(known.main.graph.nodes)}
    keys = {part: known.prefix + key for key in known.twin.stores for part in known.names(key)}
    found: dict[str, int] = {}
    for op in known.main.ops.ops():
        for tensor in known.main.ops.tensors(op.name).values() if op.kind != TENSOR else ():
            key = keys.get(tensor.key or "")
            if key is not None and op.output in order:
                found[key] = min(order[op.output], found.get(key, order[op.output]))
    return found


def _norms(known: Side) -> Iterator[Norm]:
    """Yield the batch norms of a float destination that the graph reads as one with the layer before them."""
    graph = known.main.ops
    keys = {part: known.prefix + key for key in known.twin.stores for part in known.names(key)}
    for op in graph.ops():
        tensors = {name: keys.get(tensor.key or "", "") for name, tensor in graph.tensors(op.name).items()}
        own = {name.removeprefix("norm."): key for name, key in tensors.items() if name.startswith("norm.")}
        if {"running_mean", "running_var"} <= own.keys() and tensors.get("weight") and all(own.values()):
            yield Norm(tensors["weight"], tensors.get("bias"), own, op.attribute("norm.eps", 0.0))


def _exchanges(known: Side) -> Iterator[Exchange]:
    """Yield the key exchanges of branches that structure finds exchangeable, and that a run on random values confirms."""
    graph = known.main.ops
    names = {part: known.prefix + key for key in known.twin.stores for part in known.names(key) if part in known.main.read}
    moved: set[str] = set()
    for op in graph.ops():
        if op.kind == TENSOR or op.name in moved or not graph.tensors(op.name):
            continue
        for other in rivals(graph, op.name):
            image = exchange(graph, op.name, other) or {}
            keys = exchanged(graph, image)
            if keys and keys.keys() <= names.keys() and _same_function(known.main, keys):
                moved |= image.keys()
                yield {names[one]: names[two] for one, two in list(keys.items())[::2]}


def _same_function(captured: Network, keys: Mapping[str, str]) -> bool:
    """Whether a model gives the same outputs with its tensors exchanged, in one run; False if no inputs are found."""
    generator = torch.Generator().manual_seed(0)
    drawn = random_tensors(captured, generator)
    for inputs in find_inputs(captured, captured, count=1):
        arguments = captured.arguments(inputs.double())
        with torch.no_grad():
            tensors, output = run_calibrated(captured, drawn, arguments, generator)
            outputs = outputs_of(output)
            changed = tensors | {path: tensors[other] for path, other in keys.items()}
            others = outputs_of(ValueInterpreter(captured, changed).run(*arguments))
        return is_telling(outputs) and all(distance(*pair) <= TOLERANCE for pair in zip(outputs, others, strict=True))
    return False


def run_with(mapping: KeyMapping, state: Mapping[str, Any], dst: nn.Module, given: Inputs | None) -> str:
    """Run a replica of the destination once with the mapped weights, and return a sentence about the result.

    The run shows that shapes fit and that values stay finite, but not that the keys are matched correctly.
    """
    inner, prefix = unwrap(dst)
    full = {key.removeprefix(prefix): value for key, value in mapping.evaluate(state, like=dst.state_dict()).items()}
    if not len(mapping) or not all(isinstance(value, Tensor) and not value.is_meta for value in full.values()):
        return ""
    replica = replicate(inner, own=True).eval()
    own = dict(inner.state_dict())
    if any(value.is_quantized != own[key].is_quantized for key, value in full.items() if key in own):
        return ""  # the mapped weights cannot be written to the destination, and so cannot be run
    # Copies, since forward may write to them; values that are one tensor stay one.
    copies = {id(value): value.detach().to(own[key].dtype, copy=True) for key, value in full.items()}
    cast = {key: copies[id(value)] for key, value in full.items()}
    reason = "no inputs were found; pass example_inputs=(x,)"
    choices: Iterable[Inputs] = guess_inputs(inner) if given is None else [given]
    for inputs in choices:
        try:
            with torch.no_grad(), nullcontext() if given is not None else budget(inputs.size, _SHORT):
                outputs = outputs_of(functional_call(replica, cast, (ours := inputs.copied()).args, dict(ours.kwargs)))
            finite = all(bool(torch.isfinite(value).all()) for value in outputs if value.is_floating_point())
        except Exception as error:
            let_through(error)
            # A model may refuse inputs that were guessed for it in any way it likes.
            reason = f"{type(error).__name__}: {next(iter(said(error).splitlines()), '')}"
            continue
        what = "all outputs are finite" if finite else "some outputs are not finite: a wrong key is likely"
        return f"the destination runs with the mapped weights on {inputs.size}, {what}; which key is which, this cannot show"
    return f"the destination could not be run with the mapped weights: {reason}"
