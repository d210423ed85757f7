"""Data movement computes nothing: consumers read through it.

view(x), permute(x), flatten(x), chunk(x)[i] and their like hold the elements of x and no others. Which elements a consumer
reads, and in which order, is left to the proof; structure alone needs only where values come from.
"""

from fxmap.graph import OpGraph

# What takes a part of a value, or several.
PARTS = {
    "slice",
    "select",
    "split",
    "split_with_sizes",
    "unsafe_split",
    "chunk",
    "unsafe_chunk",
    "unbind",
    "narrow",
    "getitem",
}
MOVEMENT = PARTS | {
    "view",
    "reshape",
    "permute",
    "transpose",
    "t",
    "flatten",
    "unflatten",
    "expand",
    "squeeze",
    "unsqueeze",
    "unsafe_view",
    "to",
    "float",
    "channel_shuffle",
    "movedim",
    "roll",
    "flip",
}


def pass_through_movement(graph: OpGraph) -> None:
    """Take data movement out of a graph."""
    for op in graph.of_kind(MOVEMENT):
        if len(graph.operands(op.name).get("input", [])) == 1:
            graph.bypass(op.name, "input")
