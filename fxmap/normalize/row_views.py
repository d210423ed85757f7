"""Views of rows: a layer that is computed on a matrix stands between two views that leave the last axis as it is."""

from fxmap.graph.kinds import Trait, kinds
from fxmap.normalize.rule import Context


def row_views(context: Context) -> set[str]:
    """Return the views that leave the last axis as it is: those around a layer that is computed on a matrix of rows."""
    found: set[str] = set()
    for op in context.ops.of_kind(kinds(Trait.VIEW | Trait.RESHAPE)):
        node = context.nodes.get(op.name)
        before = node.all_input_nodes[0].meta.get("shape") if node is not None and node.all_input_nodes else None
        after = None if node is None else node.meta.get("shape")
        if before and after and before[-1] == after[-1] and list(context.ops.operands(op.name)) == ["input"]:
            found.add(op.name)
    return found
