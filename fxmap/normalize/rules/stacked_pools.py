"""max_pool(max_pool(x, k), l) = max_pool(x, k + l - 1), where both keep the borders and the first moves by one position.

The largest of windows that overlap is the largest of all that they cover: three small windows one behind another are the
small, the middle and the large one side by side. Holds for every input.
"""

from dataclasses import replace

from fxmap.graph.opgraph import Op
from fxmap.normalize.rule import Context, Outcome, Rule


def _stack(context: Context, op: Op) -> Outcome:
    """Have a pool read what the pool before it reads, by a window that covers both."""
    ops = context.ops
    (read,) = ops.operands(op.name).get("input", [""])
    before = ops.op(read) if read else op
    if before.kind == "getitem":  # of the values and their indices
        before = ops.op(ops.operands(read)["input"][0])
    ours, theirs = _odd_window(op), _odd_window(before)
    if before.name == op.name or before.kind != op.kind or ours is None or theirs is None or before.attribute("stride") != 1:
        return "it reads no pool of an odd window, with its borders, that moves by one position"
    window = ours + theirs - 1
    changed = {"kernel_size": window, "padding": window // 2, "stride": op.attribute("stride", ours)}
    kept = {name: value for name, value in op.attributes if name not in changed}
    ops.network.remove_edge(read, op.name, key=ops.edge(read, op.name, "input"))
    ops.network.add_edge(ops.operands(before.name)["input"][0], op.name, argument="input")
    ops.add(replace(op, attributes=tuple(sorted((kept | changed).items()))))
    return (op.name, *ops.operands(op.name)["input"], *ops.drop_unread([read]))


def _odd_window(op: Op) -> int | None:
    """Return the window of a pool that is alike along all axes, odd, and padded by half; None of others."""
    window, padding = op.attribute("kernel_size"), op.attribute("padding", 0)
    plain = op.attribute("dilation", 1) == 1 and not op.attribute("ceil_mode", False)
    return window if isinstance(window, int) and window % 2 and padding == window // 2 and plain else None


STACK_POOLS = Rule("pools one behind another", frozenset({"max_pool"}), _stack)
