"""Masks have one spelling: masked_fill(x, m, v) = where(m, v, x), and where(not m, a, b) = where(m, b, a).

Hold for every input. A mask is what is not 0: not m is m == 0, and so are logical_not(m) and, of what is true or false, ~m;
m as it is is m != 0, bool(m). Of an equality, (a == b) == 0 is a != b, and (a != b) == 0 is a == b.
"""

from dataclasses import replace

import torch

from fxmap.graph.kinds import Trait, has
from fxmap.graph.opgraph import Op
from fxmap.normalize.rule import Context, Outcome, Rule

# Operations whose result is true or false.
_BOOLEAN = {"eq", "ge", "gt", "isinf", "isnan", "le", "logical_and", "logical_not", "logical_or", "lt", "ne", "to_bool"}


# Operations whose result is true or false where they are given what is.
_BITWISE = {"and", "bitwise_and", "or", "bitwise_or", "xor", "bitwise_xor"}


_OPPOSITES = {"eq": "ne", "ne": "eq"}


_NEGATIONS = frozenset({"logical_not", "bitwise_not", "invert"})


def is_boolean(context: Context, name: str) -> bool:
    """Whether a value is known to be one of true and false."""
    while has(context.ops.op(name).kind, Trait.MOVEMENT) and list(context.ops.operands(name)) == ["input"]:
        (name,) = context.ops.operands(name)["input"]
    op, node = context.ops.op(name), context.nodes.get(context.ops.op(name).output)
    if op.kind in _BITWISE and not op.attributes and not context.ops.numbers.get(name):
        parts = [part for parts in context.ops.operands(name).values() for part in parts]
        return bool(parts) and all(is_boolean(context, part) for part in parts)
    return op.kind in _BOOLEAN or (node is not None and node.meta.get("dtype") is torch.bool)


def _to_comparison(context: Context, op: Op) -> Outcome:
    """Write a negation as a comparison with 0."""
    ops, (mask,) = context.ops, context.ops.operands(op.name)["input"]
    if op.kind != "logical_not" and not is_boolean(context, mask):
        return "whether the mask is of true and false is not known"
    ops.add(replace(op, kind="eq", attributes=(("other", 0),)))
    return (op.name,)


def _to_one_equality(context: Context, op: Op) -> Outcome:
    """Write whether an equality does not hold as the equality's opposite."""
    ops, read = context.ops, context.ops.operands(op.name)
    if not _is_zero(op) or list(read) != ["input"] or len(read["input"]) != 1 or ops.numbers.get(op.name):
        return "it is no comparison with 0"
    inner = ops.op(read["input"][0])
    if inner.kind not in _OPPOSITES:
        return "what is compared with 0 is no equality"
    kind = _OPPOSITES[inner.kind] if op.kind == "eq" else inner.kind
    ops.network.remove_edges_from(list(ops.network.in_edges(op.name, keys=True)))
    for argument, producers in ops.operands(inner.name).items():
        for producer in producers:
            ops.network.add_edge(producer, op.name, argument=argument)
    ops.add(replace(op, kind=kind, attributes=inner.attributes, written=op.spelling))
    if inner.name in ops.numbers:
        ops.numbers[op.name] = ops.numbers[inner.name]
    return (op.name, *ops.drop_unread([inner.name]))


def _is_zero(op: Op) -> bool:
    """Whether an operation compares with 0."""
    return op.kind in _OPPOSITES and [value for _, value in op.attributes] in ([0], [False])


def _to_choice(context: Context, op: Op) -> Outcome:
    """Write masked_fill(x, mask, value) as where(mask, value, x)."""
    ops = context.ops
    names = {"mask": "condition", "value": "input", "input": "other"}
    operands, numbers = ops.operands(op.name), ops.numbers.get(op.name, ())
    given = operands.keys() | {argument for argument, _ in numbers}
    if not {"mask", "input"} <= given <= names.keys() or not {key for key, _ in op.attributes} <= {"value"}:
        return "it is not called with a mask and a value"
    ops.network.remove_edges_from(list(ops.network.in_edges(op.name, keys=True)))
    for argument, (producer,) in operands.items():
        ops.network.add_edge(producer, op.name, argument=names[argument])
    if numbers:
        ops.numbers[op.name] = tuple((names[argument], node) for argument, node in numbers)
    ops.add(replace(op, kind="where", attributes=tuple(("input", value) for _, value in op.attributes), written=op.spelling))
    return (op.name,)


def _turn(context: Context, op: Op) -> Outcome:
    """Choose by a mask itself, and not by its negation or by whether it is not 0."""
    ops, operands = context.ops, context.ops.operands(op.name)
    if len(operands.get("condition", [])) != 1:
        return "it does not choose by one condition"
    (name,) = operands["condition"]
    condition, read = ops.op(name), ops.operands(name)
    if not (_is_zero(condition) or condition.kind == "to_bool") or list(read) != ["input"] or len(read["input"]) != 1:
        return "the condition is not whether a value is 0"
    turned = {"input": "other", "other": "input"} if condition.kind == "eq" else {}
    ops.network.remove_edges_from(list(ops.network.in_edges(op.name, keys=True)))
    ops.network.add_edge(read["input"][0], op.name, argument="condition")
    for argument, producers in operands.items():
        for producer in producers if argument != "condition" else ():
            ops.network.add_edge(producer, op.name, argument=turned.get(argument, argument))
    ops.add(replace(op, attributes=tuple(sorted((turned.get(key, key), value) for key, value in op.attributes))))
    if op.name in ops.numbers:
        ops.numbers[op.name] = tuple((turned.get(argument, argument), node) for argument, node in ops.numbers[op.name])
    ops.drop_unread([name])
    return (op.name, *read["input"])


NEGATION_AS_COMPARISON = Rule("negations as comparisons with 0", _NEGATIONS, _to_comparison)


ONE_EQUALITY = Rule("equalities that do not hold as their opposites", frozenset(_OPPOSITES), _to_one_equality)


FILL_AS_CHOICE = Rule("masked fills as choices", frozenset({"masked_fill"}), _to_choice)


CHOOSE_BY_MASK = Rule("choices by a mask itself", frozenset({"where"}), _turn)
