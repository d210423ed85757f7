"""The values of operations that compute number by number, as functions with pieces of one number.

An operation is what its kind, its attributes and its operands say: `value_of` follows them back to one value, and to one
tensor of the state dict that takes part as a slope.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fxmap.graph import piecewise as p
from fxmap.graph.kinds import Trait, has
from fxmap.graph.opgraph import CONSTANT, INPUT, TENSOR, Op
from fxmap.graph.piecewise import NotPiecewiseError, Piecewise
from fxmap.normalize.rule import Context
from fxmap.normalize.rules.numbers import number_of

Values = Mapping[str, Piecewise]

_ZERO, _ONE = p.line(0.0, 0.0), p.line(0.0, 1.0)

# Functions of one number that are analytic everywhere, and have no attributes.
_ANALYTIC: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": torch.exp,
    "exp2": torch.exp2,
    "expm1": torch.expm1,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "mish": F.mish,
    "erf": torch.erf,
    "sin": torch.sin,
    "cos": torch.cos,
    "gelu": F.gelu,
    "softplus": F.softplus,
    "logsigmoid": F.logsigmoid,
    "log_sigmoid": F.logsigmoid,
    "log1p": torch.log1p,
    "reciprocal": torch.reciprocal,
}


def _of_two(op: Op, read: Values) -> list[Piecewise]:
    """Return the two operands of an operation in order, those that are numbers as constants."""
    numbers = dict(op.attributes)
    return [read[name] if name in read else p.line(0.0, _float(numbers, name)) for name in ("input", "other")]


def _float(numbers: Mapping[str, object], name: str, default: float | None = None) -> float:
    value = numbers.get(name, default)
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise NotPiecewiseError(f"{name} is no number")
    return float(value)


def _bounds(op: Op, read: Values) -> Piecewise:
    numbers = dict(op.attributes)
    named = ("min_val", "max_val") if op.kind == "hardtanh" else ("min", "max")
    default = (-1.0, 1.0) if op.kind == "hardtanh" else (None, None)
    limits = [_float(numbers, n) if n in numbers else own for n, own in zip(named, default, strict=True)]
    return p.bounded(read["input"], *limits)


def _threshold(op: Op, read: Values) -> Piecewise:
    x, numbers = read["input"], dict(op.attributes)
    return p.chosen(p.above(x, p.line(0.0, _float(numbers, "threshold"))), x, p.line(0.0, _float(numbers, "value")))


def _leaky(op: Op, read: Values) -> Piecewise:
    x = read["input"]
    slope = read["weight"] if op.kind == "prelu" else p.line(0.0, _float(dict(op.attributes), "negative_slope", 0.01))
    return p.chosen(p.above(x, _ZERO), x, p.times(slope, x))


def _elu(op: Op, read: Values) -> Piecewise:
    x, numbers = read["input"], dict(op.attributes)
    alpha, scale, inner = (_float(numbers, name, 1.0) for name in ("alpha", "scale", "input_scale"))
    inner = 1 / alpha if op.kind == "celu" else inner
    low = p.applied(lambda h: scale * alpha * torch.expm1(h * inner), x)
    return p.chosen(p.above(x, _ZERO), p.scaled(x, scale), low)


def _selu(op: Op, read: Values) -> Piecewise:
    known = (("alpha", 1.6732632423543772848170429916717), ("scale", 1.0507009873554804934193349852946))
    return _elu(Op(op.name, "elu", known), read)


def _shrunk(op: Op, read: Values) -> Piecewise:
    x, bound = read["input"], p.line(0.0, _float(dict(op.attributes), "lambd", 0.5))
    less = bound if op.kind == "softshrink" else _ZERO
    high = p.plus(x, p.scaled(less, -1.0))
    low = p.chosen(p.above(p.scaled(bound, -1.0), x), p.plus(x, less), _ZERO)
    return p.chosen(p.above(x, bound), high, low)


def _hard(op: Op, read: Values) -> Piecewise:
    gate = p.bounded(p.plus(p.scaled(read["input"], 1 / 6), p.line(0.0, 0.5)), 0.0, 1.0)
    return gate if op.kind == "hardsigmoid" else p.times(read["input"], gate)


def _power(op: Op, read: Values) -> Piecewise:
    exponent = 2.0 if op.kind == "square" else _float(dict(op.attributes), "exponent", dict(op.attributes).get("other"))
    if not exponent.is_integer() or not 0 <= exponent <= 4:
        raise NotPiecewiseError("it is a power that is not whole, or high")
    return p.applied(lambda h: h**exponent, read["input"])


def _sum(op: Op, read: Values) -> Piecewise:
    if "alpha" in dict(op.attributes):
        raise NotPiecewiseError("it adds a multiple")
    one, other = _of_two(op, read)
    match op.kind:
        case "sub":
            return p.plus(one, p.scaled(other, -1.0))
        case "rsub":
            return p.plus(other, p.scaled(one, -1.0))
        case _:
            return p.plus(one, other)


def _choice(op: Op, read: Values) -> Piecewise:
    numbers = dict(op.attributes)
    one, other = (read[n] if n in read else p.line(0.0, _float(numbers, n)) for n in ("input", "other"))
    if one.constant is not None and other.constant is not None:  # between two numbers it is chosen in single precision
        one, other = (p.line(0.0, float(np.float32(value.constant))) for value in (one, other))
    return p.chosen(read["condition"], one, other)


def _comparison(op: Op, read: Values) -> Piecewise:
    one, other = _of_two(op, read)
    match op.kind:
        case "gt" | "ge":
            return p.above(one, other, equal=op.kind == "ge")
        case "lt" | "le":
            return p.above(other, one, equal=op.kind == "le")
        case _:
            same = p.equal(one, other)
            return same if op.kind == "eq" else p.chosen(same, _ZERO, _ONE)


def _softsign(_: Op, read: Values) -> Piecewise:
    x = read["input"]
    return p.over(x, p.plus(p.absolute(x), _ONE))


def _sign(_: Op, read: Values) -> Piecewise:
    x = read["input"]
    return p.plus(p.above(x, _ZERO), p.scaled(p.above(_ZERO, x), -1.0))


def _same(_: Op, read: Values) -> Piecewise:
    return read["input"]


_SPELLED: dict[str, Callable[[Op, Values], Piecewise]] = {
    **dict.fromkeys(("add", "sub", "rsub"), _sum),
    "mul": lambda op, read: p.times(*_of_two(op, read)),
    "div": lambda op, read: p.over(*_of_two(op, read)),
    "neg": lambda _, read: p.scaled(read["input"], -1.0),
    **dict.fromkeys(("pow", "square"), _power),
    **dict.fromkeys(("gt", "ge", "lt", "le", "eq", "ne"), _comparison),
    "where": _choice,
    "relu": lambda _, read: p.bounded(read["input"], 0.0, None),
    **dict.fromkeys(("clamp", "clip", "clamp_min", "clamp_max", "hardtanh"), _bounds),
    "maximum": lambda op, read: p.larger(*_of_two(op, read)),
    "minimum": lambda op, read: p.smaller(*_of_two(op, read)),
    "abs": lambda _, read: p.absolute(read["input"]),
    **dict.fromkeys(("sign", "sgn"), _sign),
    "softsign": _softsign,
    "threshold": _threshold,
    **dict.fromkeys(("leaky_relu", "prelu"), _leaky),
    **dict.fromkeys(("elu", "celu"), _elu),
    "selu": _selu,
    **dict.fromkeys(("softshrink", "hardshrink"), _shrunk),
    **dict.fromkeys(("hardsigmoid", "hardswish"), _hard),
    **dict.fromkeys(("to", "float", "double", "to_copy"), _same),
}


# Of these, some make pieces.
ELEMENTWISE = frozenset(_SPELLED) | frozenset(_ANALYTIC)
PIECES = frozenset(kind for kind in _SPELLED if not has(kind, Trait.ANALYTIC)) - {"pow"}
COMPARISONS = frozenset({"gt", "ge", "lt", "le", "eq", "ne"})
_CASTS = frozenset({"to", "float", "double", "to_copy"})
_OF_TRUTHS = _CASTS | {"mul", "where", "maximum", "minimum"}  # of what is true or false, these are what they are of numbers
_MOST = 40  # operations of one function


def value_of(context: Context, end: str, start: str, slope: str | None) -> Piecewise:
    """Return what an operation computes of the value of another one, and of a tensor.

    Raises:
        NotPiecewiseError: it computes of more than that, or breaks where it is not known.
    """
    found, truths = {start: p.line(1.0, 0.0)}, _truths(context, start)
    if slope is not None:
        found[slope] = p.SLOPE

    def follow(name: str) -> Piecewise:
        if name not in found:
            if len(found) > _MOST:
                raise NotPiecewiseError("it is long")
            number = number_of(context, name)
            found[name] = p.line(0.0, number) if number is not None else spelled(name)
        return found[name]

    def spelled(name: str) -> Piecewise:
        op = context.ops.op(name)
        operands = [(argument, producer) for argument, names in context.ops.operands(name).items() for producer in names]
        if op.kind not in ELEMENTWISE or not operands or context.ops.numbers.get(name):
            raise NotPiecewiseError(f"{op.kind} is no function of single numbers")
        read = {_argument(op, operands, i): follow(producer) for i, (_, producer) in enumerate(operands)}
        if op.kind in COMPARISONS or (truths.issuperset(producer for _, producer in operands) and not op.attributes):
            if op.kind not in COMPARISONS | _OF_TRUTHS:
                raise NotPiecewiseError(f"{op.kind} of what is true or false is no arithmetic")
            truths.update((name,) if op.kind not in _CASTS else ())
        return computed(op, read)

    return follow(end)


def _truths(context: Context, start: str) -> set[str]:
    """Return the value that a function starts at, if it is one of true and false.

    Raises:
        NotPiecewiseError: it may be of integers that wrap around.
    """
    op = context.ops.op(start)
    node = context.nodes.get(op.output)
    dtype = None if node is None else node.meta.get("dtype")
    if op.kind in ("to_integer", INPUT) and dtype is None:
        raise NotPiecewiseError("whether it is of real numbers is not known")
    if dtype is not None and not dtype.is_floating_point and dtype not in (torch.bool, torch.int64):
        raise NotPiecewiseError("its integers wrap around")
    return {start} if dtype is torch.bool or op.kind == "to_bool" else set()


def _argument(op: Op, operands: list[tuple[str, str]], i: int) -> str:
    """Return the name of an operand; the second of two that commute is the other."""
    argument = operands[i][0]
    return "other" if argument == "input" and i > 0 and has(op.kind, Trait.COMMUTATIVE) else argument


def computed(op: Op, read: Values) -> Piecewise:
    """Return the value of an operation of the values of its operands.

    Raises:
        NotPiecewiseError: it breaks where it is not known.
    """
    if op.kind in _ANALYTIC:
        if op.attributes or read.keys() != {"input"}:
            raise NotPiecewiseError(f"{op.kind} has more arguments than one number")
        return p.applied(_ANALYTIC[op.kind], read["input"])
    if has(op.kind, Trait.COMMUTATIVE) and "other" not in read and "input" in dict(op.attributes):
        op = Op(op.name, op.kind, tuple(("other" if name == "input" else name, value) for name, value in op.attributes))
    try:
        return _SPELLED[op.kind](op, read)
    except KeyError as error:
        raise NotPiecewiseError(f"{op.kind} is called without {error}") from error


def leaves(context: Context, end: str) -> tuple[dict[str, list[str]], list[str]] | None:
    """Return the operations that compute an operation number by number, with their operands, and the tensors beside them.

    None where there are too many. Constants that are one number everywhere are left out.
    """
    ops, edges, tensors, waiting = context.ops, dict[str, list[str]](), dict[str, None](), [end]
    while waiting:
        name = waiting.pop()
        if name in edges:
            continue
        if len(edges) > _MOST:
            return None
        op, edges[name] = ops.op(name), []
        if op.kind not in ELEMENTWISE:
            continue
        for producer in [producer for names in ops.operands(name).values() for producer in names]:
            if ops.op(producer).kind == TENSOR:
                tensors[producer] = None
            elif number_of(context, producer) is None and ops.op(producer).kind != CONSTANT:
                edges[name].append(producer)
                waiting.append(producer)
    return edges, list(tensors)
