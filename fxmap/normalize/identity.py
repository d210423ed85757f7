"""identity(x) = x: dropout in eval mode, nn.Identity, quantization stubs, contiguous, clone.

Holds for every input in eval mode. Observers and fake quantizers never reach a graph: the float twin has none.
"""

from fxmap.graph import OpGraph

IDENTITIES = {
    "identity",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "alpha_dropout",
    "feature_dropout",
    "contiguous",
    "alias",
    "lift_fresh",
    "lift_fresh_copy",
    "to_copy",
    "clone",
    "detach",
}


def drop_identities(graph: OpGraph) -> None:
    """Take identities out of a graph."""
    for op in graph.of_kind(IDENTITIES):
        graph.bypass(op.name, "input")
