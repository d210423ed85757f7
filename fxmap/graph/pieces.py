"""Pieces: the operations of a graph that may be piecewise functions, and the operands of each.

A function that is made of pieces (ReLU, max, rounding) is known on the pieces that inputs reach and on no others. So a proof
compares what such operations read, and not their results alone. Some functions are analytic under a condition:

    sqrt, rsqrt, log, x ** p of x > 0; log1p of x >= 0;  x ** n for whole n;  b ** x for a number b > 0
    values that are filled by constant masks, with a number that values show
    sqrt, rsqrt of a stored tensor, with a number added to it or not: where the root is a number
    the length of what stored tensors alone make, away from 0; and of any value where it is squared, as a sum of squares
    writes by an index that add up, or of a number into a constant: tables that the index looks up
    norms with eps > 0;  softplus where it turns into the identity beyond 20, where the two differ by 2e-9

Whether an operand is positive follows from signs: squares, means of squares, variances and exponentials are not negative,
and a sum with a number above 0 is positive. sqrt(x * x) is |x|: zero is not excluded.

>>> graph = OpGraph()
>>> for op in (Op("x", "input"), Op("s", "square"), Op("v", "add", (("other", 1e-6),)), Op("r", "rsqrt")):
...     graph.add(op)
>>> for edge in (("x", "s"), ("s", "v"), ("v", "r")):
...     _ = graph.network.add_edge(*edge, argument="input")
>>> pieces_of(graph, {})["r"].analytic
True

Cost: linear in the operations.
"""

import math
from collections.abc import Container, Mapping
from enum import IntEnum

from torch import Tensor

from fxmap.graph.kinds import Trait, has
from fxmap.graph.opgraph import CONSTANT, INPUT, OUTPUT, TENSOR, Op, OpGraph, Piece


class Sign(IntEnum):
    """The known sign of all numbers of a value."""

    ANY = 0
    NOT_NEGATIVE = 1
    POSITIVE = 2


def pieces_of(ops: OpGraph, constants: Mapping[str, Tensor], hidden: Container[str] = ()) -> dict[str, Piece]:
    """Return the operations that are not analytic whatever they read, by name.

    Args:
        ops: a graph in which data movement and scaling still stand.
        constants: the values of its constants, by the name of their node.
        hidden: operations that read numbers which their values do not show, though their kind is analytic.
    """
    signs: dict[str, Sign] = {}
    found: dict[str, Piece] = {}
    for op in ops.ops():
        operands = [(argument, name) for argument, names in ops.operands(op.name).items() for name in names]
        read = {argument: min(signs[name] for name in names) for argument, names in ops.operands(op.name).items()}
        signs[op.name] = Sign.ANY if _is_mean(ops, op) else _sign(op, read, constants.get(op.output))
        if op.kind in (INPUT, OUTPUT, TENSOR, CONSTANT) or (has(op.kind, Trait.ANALYTIC) and op.name not in hidden):
            continue
        places = tuple((argument, ops.op(name).output) for argument, name in operands)
        further = _is_lookup(ops, op) or _is_root_of_stored(ops, op, read) or _is_smooth_length(ops, op)
        analytic = op.name not in hidden and (_is_analytic(op, read) or further)
        found[op.name] = Piece((*places, *ops.numbers.get(op.name, ())), analytic)
    return found


def _is_analytic(op: Op, read: Mapping[str, Sign]) -> bool:
    """Whether an operation without the trait is analytic with these attributes, and of operands with these signs."""
    x = read.get("input", Sign.ANY)
    if op.kind in ("sqrt", "rsqrt", "log", "log2", "log10"):
        return x is Sign.POSITIVE
    if op.kind == "log1p":
        return x >= Sign.NOT_NEGATIVE
    if op.kind in ("pow", "rpow"):
        return _is_analytic_power(op, read)
    if op.kind == "softplus":
        return float(op.attribute("threshold", 20)) == 20
    if op.kind == "composed":  # of pieces that join smoothly
        return True
    if op.kind == "masked":  # by constant masks alone
        return read.keys() == {"input"} and not is_deep(op.attribute("fill"))
    if op.kind in _NORMS:
        return _eps(op) > 0
    return op.kind == "local_response_norm" and float(op.attribute("k", 1.0)) > 0


def _is_lookup(ops: OpGraph, op: Op) -> bool:
    """Whether a write hides nothing: it adds up, or what it writes to is a constant, and what it writes a number."""
    if op.kind == "index_put":
        return op.attribute("accumulate", False) is True
    if op.kind == "embedding_bag":
        return op.attribute("mode", 1) in (0, 1, "sum", "mean")
    operands = ops.operands(op.name)
    if op.kind != "scatter" or operands.keys() != {"input", "index"}:
        return False
    return all(ops.op(name).kind in _CONSTANT for name in operands["input"])


def _is_mean(ops: OpGraph, op: Op) -> bool:
    """Whether an operation takes the mean from what computes a variance, its own value, and a mean."""
    (pair,) = ops.operands(op.name).get("values", [""]) if op.kind == "getitem" else ("",)
    return bool(pair) and ops.op(pair).kind == "var_mean"


def _is_root_of_stored(ops: OpGraph, op: Op, read: Mapping[str, Sign]) -> bool:
    """Whether an operation is the root of a stored tensor, with a number added to it: analytic wherever it is a number.

    So is that of a sum of squares, or of something else that is never negative, of stored tensors alone: it is not 0.
    """
    if op.kind not in ("sqrt", "rsqrt"):
        return False
    (total,) = ops.operands(op.name).get("input", [""])
    if total and (ops.op(total).kind == TENSOR or (read["input"] >= Sign.NOT_NEGATIVE and _is_of_stored(ops, total))):
        return True
    if not total or ops.op(total).kind != "add" or list(ops.operands(total)) != ["input"]:
        return False
    added, numbers = ops.operands(total)["input"], [value for _, value in ops.op(total).attributes]
    return len(added) == len(numbers) == 1 and ops.op(added[0]).kind == TENSOR


def _is_smooth_length(ops: OpGraph, op: Op) -> bool:
    """Whether an operation is a 2-norm that is squared, a sum of squares; or one of a stored tensor, which is not 0."""
    if op.kind in _DISTANCES and float(op.attribute("p", 2)) == 2:
        return {ops.op(user).kind for user, _ in ops.users(op.name)} == {"square"}
    if op.kind not in _LENGTHS or not {value for _, value in op.attributes} <= {2, "fro"}:
        return False
    (x,) = ops.operands(op.name).get("input", [""])
    users = [ops.op(user).kind for user, _ in ops.users(op.name)]
    return set(users) == {"square"} or (bool(x) and _is_of_stored(ops, x))


def _is_of_stored(ops: OpGraph, name: str) -> bool:
    """Whether a value is an analytic function of stored tensors alone, and not of constants alone."""
    found, waiting = set[str](), [name]
    while waiting:
        current = waiting.pop()
        if current in found:
            continue
        found.add(current)
        if ops.op(current).kind not in (TENSOR, *_CONSTANT):
            if ops.op(current).kind == INPUT or not has(ops.op(current).kind, Trait.ANALYTIC):
                return False
            waiting += ops.network.predecessors(current)
    return any(ops.op(one).kind == TENSOR for one in found)


_DISTANCES = {"cdist", "cdist_forward"}


_LENGTHS = {"linalg_vector_norm", "vector_norm", "norm"}


_CONSTANT = {CONSTANT, "full", "ones", "zeros"}


# Where each has eps if it is not given. None is the machine epsilon of the dtype.
_NORMS = {"batch_norm", "fused_rms_norm", "group_norm", "instance_norm", "layer_norm", "rms_norm", "standardize"}


def _eps(op: Op) -> float:
    return float(op.attribute("eps", op.attribute("epsilon", 1e-5)))


def is_deep(number: float) -> bool:
    """Whether the exponential of a number is lost beside that of any score, so that values do not show it."""
    return number < -20


def _is_analytic_power(op: Op, read: Mapping[str, Sign]) -> bool:
    exponents = [value for _, value in op.attributes if isinstance(value, int | float)]
    if op.kind == "rpow" or "input" not in read:
        return bool(exponents) and exponents[0] > 0  # a number to the power of a value
    whole = len(read) == 1 and bool(exponents) and float(exponents[0]).is_integer()
    return whole or read["input"] is Sign.POSITIVE


def _sign(op: Op, read: Mapping[str, Sign], constant: Tensor | None) -> Sign:
    """Return the known sign of the value of an operation, from the signs of its operands."""
    if constant is not None and op.kind == CONSTANT:
        return _sign_of_tensor(constant)
    x = read.get("input", Sign.ANY)
    if op.kind in _POSITIVE:
        return Sign.POSITIVE
    if op.kind in _NOT_NEGATIVE:
        return Sign.NOT_NEGATIVE
    if op.kind in _KEEPING or has(op.kind, Trait.MOVEMENT | Trait.IDENTITY | Trait.JOIN):
        return min(read.values(), default=Sign.ANY)
    if op.kind in ("add", "mul", "div") and "alpha" not in dict(op.attributes):
        return _sign_of_arithmetic(op, [*read.values(), *(_sign_of(value) for _, value in op.attributes)])
    if op.kind in ("clamp", "clamp_min"):
        return max(x, _sign_of(op.attribute("min", -math.inf)))
    if op.kind == "pow":
        exponent = op.attribute("exponent", op.attribute("other"))
        return max(x, Sign.NOT_NEGATIVE if isinstance(exponent, int | float) and exponent % 2 == 0 else Sign.ANY)
    return Sign.ANY


_KEEPING = {"sqrt", "rsqrt", "reciprocal", "mean", "sum"}


_POSITIVE = {"exp", "exp2", "sigmoid", "softplus", "cosh", "ones"}


_NOT_NEGATIVE = {
    *("square", "abs", "relu", "softmax", "var", "var_mean", "std", "zeros"),
    *("linalg_vector_norm", "vector_norm", "norm"),
}


def _sign_of_arithmetic(op: Op, signs: list[Sign]) -> Sign:
    if not signs or min(signs) is Sign.ANY:
        return Sign.ANY
    return max(signs) if op.kind == "add" else min(signs)


def _sign_of(number: object) -> Sign:
    if not isinstance(number, int | float):
        return Sign.ANY
    return Sign.POSITIVE if number > 0 else Sign.NOT_NEGATIVE if number == 0 else Sign.ANY


def _sign_of_tensor(value: Tensor) -> Sign:
    if value.is_complex() or value.is_meta or value.numel() == 0:
        return Sign.ANY
    return Sign.POSITIVE if bool((value > 0).all()) else Sign.NOT_NEGATIVE if bool((value >= 0).all()) else Sign.ANY
