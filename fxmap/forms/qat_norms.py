"""Batch norms of models that were prepared for QAT, by whose weights such a model divides."""

from collections.abc import Iterator

import torch
from torch import fx, nn


def divisors(model: nn.Module) -> list[str]:
    """Return the keys of the weights of batch norms by which a model that was prepared for QAT divides, in every forward.

    Such a model scales the weight of a layer by its norm before it is fake-quantized, and divides the result by the scale.
    Eager and FX mode have modules for it; an exported graph reads the weight of the norm once more for that.
    """
    found: list[str] = []
    for path, part in model.named_modules():
        prefix = f"{path}." if path else ""
        if type(part).__module__.startswith("torch.ao.nn.intrinsic.qat.") and isinstance(part._modules.get("bn"), nn.Module):
            found.append(f"{prefix}bn.weight")
        elif isinstance(part, fx.GraphModule):
            found += [f"{prefix}{name}" for name in _divisors(part.graph)]
    return found


def _divisors(graph: fx.Graph) -> Iterator[str]:
    for node in graph.nodes:
        weight = node.args[1] if node.target is torch.ops.aten.batch_norm.default else None
        if isinstance(weight, fx.Node) and any(user.target is torch.ops.aten.div.Tensor for user in weight.users):
            yield str(weight.target)
