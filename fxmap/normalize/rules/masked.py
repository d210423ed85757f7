"""Values that are filled where a mask says so have one spelling: the number, and the masks that have to be true or false.

    where(m, x, c) = where(not m, c, x)                         it is kept where m, and filled where not m
    where(m and n, x, c) = where(m, where(n, x, c), c)          kept where m and where n
    x + where(m, 0, -inf) = where(m, x, -inf)                   the same, of finite x

Hold for every input. A mask that depends on no input is compared by value: at each size it is a constant, and a value that
it fills is a linear function of what it is given. Where the number is far below any score, a softmax behind it gives the
same whichever it is: exp(-1e9 - x) is 0 in float64. The softmax is compared then, and not what it is given.

A mask that is an input may leave nothing in a row, and then -1e9 and -inf differ: the numbers have to be the same.
"""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from fxmap.graph.kinds import Trait, has
from fxmap.graph.opgraph import INPUT, TENSOR, Op, OpGraph
from fxmap.graph.pieces import is_deep
from fxmap.normalize.rule import Context, Outcome, Rule
from fxmap.normalize.rules.masks import is_boolean
from fxmap.normalize.rules.numbers import number_of

_FLIPPED = {"kept": "filled", "filled": "kept"}


# What of two conditions has to hold for each: both of them, or one.
_JOINED = {
    "kept": {"logical_and", "bitwise_and", "and"},
    "filled": {"logical_or", "bitwise_or", "or"},
}


def _to_masked(context: Context, op: Op) -> Outcome:
    """Write a choice between a value and a number as a value that is filled."""
    ops, operands = context.ops, context.ops.operands(op.name)
    conditions, values = operands.pop("condition", []), [*operands.get("input", []), *operands.get("other", [])]
    if len(values) == 1 and number_of(context, values[0]) is not None:
        return "it chooses between two numbers"
    if len(values) != 1 or len(op.attributes) != 1 or len(conditions) > 1 or not _is_given(ops, op, conditions):
        return "it does not choose between a value and a number, by one condition"
    ((branch, number),) = op.attributes
    ops.network.remove_edges_from(list(ops.network.in_edges(op.name, keys=True)))
    ops.network.add_edge(values[0], op.name, argument="input")
    for name in conditions:
        ops.network.add_edge(name, op.name, argument="filled" if branch == "input" else "kept")
    ops.numbers.pop(op.name, None)
    ops.add(replace(op, kind="masked", attributes=(("fill", float(number)),), written=op.spelling))
    return (op.name, *values)


def _is_given(ops: OpGraph, op: Op, conditions: list[str]) -> bool:
    numbers = [argument for argument, _ in ops.numbers.get(op.name, ())]
    return bool(conditions) != (numbers == ["condition"]) and len(numbers) <= 1


def _added(context: Context, op: Op) -> Outcome:
    """Write a sum with what is 0 or minus infinity as a value that is filled."""
    ops, terms = context.ops, context.ops.operands(op.name).get("input", [])
    if len(terms) != 2 or op.attributes or list(ops.operands(op.name)) != ["input"]:
        return "it is no sum of two values"
    for value, mask in (terms, terms[::-1]):
        found = _of_zeros(context, mask)
        if found is not None and value != mask and (found[0] == -math.inf or _only_softmax(ops, op.name)):
            fill, edges = found
            ops.network.remove_edges_from(list(ops.network.in_edges(op.name, keys=True)))
            ops.network.add_edge(value, op.name, argument="input")
            for argument, name in edges:
                ops.network.add_edge(name, op.name, argument=argument)
            ops.add(replace(op, kind="masked", attributes=(("fill", fill),), written=op.spelling))
            ops.drop_unread([mask])
            return (op.name, value)
    return "it adds nothing that is 0 or minus infinity"


def _of_zeros(context: Context, name: str) -> tuple[float, list[tuple[str, str]]] | None:
    """Return the number below 0 that a mask of zeros has elsewhere, and the conditions for it, each with its argument."""
    ops = context.ops
    if is_constant(ops, name):
        value = context.folded(ops.op(name).output)
        numbers = [] if value is None or not value.is_floating_point() else torch.unique(value).tolist()
        fill = numbers[0] if len(numbers) == 2 and numbers[1] == 0 else 0.0
        return (fill, []) if fill == -math.inf or fill <= _LOW else None
    while has(ops.op(name).kind, Trait.MOVEMENT) and list(ops.operands(name)) == ["input"]:
        (name,) = ops.operands(name)["input"]
    op = ops.op(name)
    numbers = dict(op.attributes)
    if op.kind != "where" or sorted(numbers) != ["input", "other"] or sorted(numbers.values()) != [-math.inf, 0]:
        return None
    conditions = ops.operands(name).get("condition", [])
    argument = "kept" if numbers["input"] == 0 else "filled"
    return (-math.inf, [(argument, condition) for condition in conditions]) if _is_given(ops, op, conditions) else None


# Numbers below which every score is far above: their exponential is 0 beside that of any.
_LOW = -1e8


def is_constant(ops: OpGraph, name: str) -> bool:
    """Whether a value depends on no input, and on no tensor of the state dict."""
    waiting, seen = [name], {name}
    while waiting:
        current = waiting.pop()
        if ops.op(current).kind in (INPUT, TENSOR):
            return False
        new = set(ops.network.predecessors(current)) - seen
        seen |= new
        waiting += new
    return True


def _simplify(context: Context, op: Op) -> Outcome:
    """Take one step from a condition to the masks that it is made of, or leave out a constant one."""
    ops = context.ops
    for argument in ("kept", "filled"):
        for name in ops.operands(op.name).get(argument, []):
            made = _step(context, argument, name)
            if made is not None:
                ops.network.remove_edge(name, op.name, key=ops.edge(name, op.name, argument))
                for other, producer in made:
                    ops.network.add_edge(producer, op.name, argument=other)
                ops.drop_unread([name])
                return (op.name, *(producer for _, producer in made if producer in ops.network))
    (before,) = ops.operands(op.name)["input"]
    inner = ops.op(before)
    if inner.kind != "masked" or inner.attributes != op.attributes or len(ops.users(before)) != 1:
        return "its masks are written so, and it is not filled before with the same number"
    for argument, names in ops.operands(before).items():
        for name in names if argument != "input" else ():
            ops.network.add_edge(name, op.name, argument=argument)
    return (op.name, *ops.bypass(before, "input"))


def _step(context: Context, argument: str, name: str) -> list[tuple[str, str]] | None:
    """Return the conditions that one is made of, each with its argument; None where it is made of none."""
    ops, op = context.ops, context.ops.op(name)
    operands = ops.operands(name)
    if is_constant(ops, name):
        return []
    if op.kind in _JOINED[argument]:
        parts = [producer for names in operands.values() for producer in names]
        known = op.kind.startswith("logical") or all(is_boolean(context, part) for part in parts)
        return [(argument, part) for part in parts] if known and parts and not op.attributes else None
    if op.kind in ("expand_as", "broadcast_to"):  # of the other one, the shape alone is read
        return [(argument, before) for before in operands["input"]]
    if list(operands) != ["input"] or len(operands["input"]) != 1:
        return None
    (before,) = operands["input"]
    if op.kind in ("eq", "ne") and [value for _, value in op.attributes] in ([0], [False]) and not ops.numbers.get(name):
        return [(argument if op.kind == "ne" else _FLIPPED[argument], before)]
    moved = has(op.kind, Trait.MOVEMENT | Trait.IDENTITY) or op.kind == "to_bool"
    return [(argument, before)] if moved else None


def _pass(context: Context, op: Op) -> Outcome:
    """Read through a value that is filled by constant masks alone."""
    if list(context.ops.operands(op.name)) != ["input"]:
        return "its masks depend on inputs"
    fill = op.attribute("fill")
    if is_deep(fill) and (fill > _LOW or not _only_softmax(context.ops, op.name)):
        return "the number that it is filled with may be beyond what inputs show"
    return context.ops.bypass(op.name, "input")


def _only_softmax(ops: OpGraph, name: str) -> bool:
    """Whether nothing but a softmax reads a value."""
    waiting, found = [name], False
    while waiting:
        for user, _ in ops.users(waiting.pop()):
            if ops.op(user).kind in ("softmax", "log_softmax"):
                found = True
            elif has(ops.op(user).kind, Trait.MOVEMENT) or ops.op(user).kind == "masked":
                waiting.append(user)
            else:
                return False
    return found


def deep_sums(context: Context) -> set[str]:
    """Return the sums before a softmax with constants so far below 0 that values do not show which, though scores may.

    Such are additive masks of -100 or -1e4. Linear in the operations before each softmax, up to layers.
    """
    ops, found, seen = context.ops, set[str](), set[str]()
    waiting = [op.name for op in ops.of_kind({"softmax", "log_softmax", "scaled_dot_product_attention"})]
    while waiting:
        name = waiting.pop()
        for argument, producers in ops.operands(name).items():
            if ops.op(name).kind == "scaled_dot_product_attention" and argument != "attn_mask":
                continue
            passed = (name for name in producers if has(ops.op(name).kind, _BEFORE) or ops.op(name).kind in _ADDING)
            new = set(passed) - seen
            seen |= new
            waiting += new
        if ops.op(name).kind in _ADDING and _adds_deep(context, ops.op(name)):
            found.add(name)
    return found


_BEFORE = Trait.MOVEMENT | Trait.IDENTITY | Trait.PRODUCT
_ADDING = {"add", "sub", "rsub", "baddbmm", "masked", "scaled_dot_product_attention"}


def _adds_deep(context: Context, op: Op) -> bool:
    """Whether an operation reads a constant with such a number, or one of which that is not known."""
    node = context.nodes.get(op.name)
    made = {context.ops.op(name).output: name for names in context.ops.operands(op.name).values() for name in names}
    parts = () if node is None else node.all_input_nodes
    constant = [part for part in parts if part.name not in made or is_constant(context.ops, made[part.name])]
    return any(_holds_deep(context, part) for part in constant)


def _holds_deep(context: Context, node: fx.Node) -> bool:
    value = context.folded(node.name)
    if value is not None:
        sizes = value.abs() if value.dtype is not torch.bool and not value.is_complex() else value.new_zeros(1)
        return bool(((sizes > 20) & (sizes < -_LOW)).any())
    literals, waiting, seen = list[float](), [node], {node}

    def keep(part: Any) -> Any:
        literals.extend([part] if isinstance(part, int | float) else [])
        return part

    while waiting:
        current = waiting.pop()
        fx.node.map_aggregate((current.args, dict(current.kwargs)), keep)
        new = set(current.all_input_nodes) - seen
        seen |= new
        waiting += new
    return any(20 < abs(literal) < -_LOW for literal in literals)


FILL_BY_MASK = Rule("values that are filled", frozenset({"where"}), _to_masked)


FILL_BY_SUM = Rule("sums with minus infinity", frozenset({"add"}), _added)


SIMPLIFY_MASKS = Rule("masks that conditions are made of", frozenset({"masked"}), _simplify)


PASS_CONSTANT_MASKS = Rule("read through constant masks", frozenset({"masked"}), _pass)
