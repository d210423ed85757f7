"""Influence: how much every tensor moves the outputs, by one backward pass for all of them.

Idea: the gradient of a random combination of the outputs (a vector-Jacobian product) is zero for a tensor only if that moves
no output near this point, with probability one. So one backward pass tells which tensors the outputs depend on.

>>> w = torch.tensor([[2.0, 3.0]], requires_grad=True)
>>> reached = w @ torch.tensor([1.0, 0.0])
>>> count_zeros(torch.autograd.grad(reached, w)[0], w)  # the second input is 0
1

Cost: one backward pass, a second one where some numbers were reached by nothing; the memory of all values in between.
Source: random projections of a Jacobian, as in Griewank and Walther, Evaluating Derivatives, 2008,
doi:10.1137/1.9780898717761.
"""

from collections.abc import Container, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fxmap.prove.runs.passes import Passes
from fxmap.run.deferred import Deferred, Sparing, absolute_sum, mean_size
from fxmap.run.lockstep import Comparison
from fxmap.run.randomize import cotangents

# From so many numbers on, gradients are not kept.
_LARGE = 1 << 20


@dataclass(frozen=True, slots=True)
class Influence:
    """The influence of the destination's tensors on its outputs, by path.

    `sizes` is how much each moves the outputs, relative to them. `unreached` counts, of tensors that are not the source's
    numbers as they stand, the numbers that move neither the outputs nor any aligned operation: no input reached them.
    """

    sizes: Mapping[str, float]
    unreached: Mapping[str, int]


def influence_of(
    run: Comparison, leaves: Mapping[str, Tensor], made: Container[str], generator: torch.Generator, passes: Passes
) -> Influence:
    """Measure the influence of the tensors that a run was recorded from.

    Args:
        run: the destination's run, with gradients.
        leaves: its tensors, by path.
        made: those that are not the source's numbers as they stand (folded, gathered, joined).
        generator: of the random combinations.
        passes: counts the passes of this measurement.
    """
    outputs = [output for output in run.outputs if output.requires_grad]
    scale = sum(float(output.detach().abs().sum()) for output in outputs) or 1.0
    gradients = _gradients(outputs, leaves, generator, passes)
    still = {path: leaf for path, leaf in leaves.items() if path in made and count_zeros(gradients.get(path), leaf)}
    unreached: dict[str, int] = {}
    if still:
        seen = [value for value in run.seen if value.requires_grad]
        local = _gradients(seen, still, generator, passes)
        unreached = {path: count for path, leaf in still.items() if (count := count_zeros(local.get(path), leaf))}
    sizes = {path: absolute_sum(gradient) * (mean_size(leaves[path]) or 1.0) / scale for path, gradient in gradients.items()}
    return Influence(sizes, unreached)


def _gradients(
    values: list[Tensor], leaves: Mapping[str, Tensor], generator: torch.Generator, passes: Passes
) -> dict[str, Tensor]:
    if not values:
        return {}
    passes.add(2)
    wanted = list(leaves.values())
    # The gradients of large weights take longer to write to memory than to compute.
    if sum(leaf.numel() for leaf in wanted) > _LARGE or any(isinstance(leaf, Deferred) for leaf in wanted):
        given = cotangents(values, generator)
        with Sparing():
            gradients = torch.autograd.grad(values, wanted, given, allow_unused=True, retain_graph=True)
    else:
        # The sums of the products have the same gradients; torch imports its symbolic shapes to look at cotangents.
        goals = [(value.real * part.real).sum() for value, part in zip(values, cotangents(values, generator), strict=True)]
        gradients = torch.autograd.grad(goals, wanted, allow_unused=True, retain_graph=True)
    return {path: part for path, part in zip(leaves, gradients, strict=True) if part is not None}


def count_zeros(gradient: Tensor | None, leaf: Tensor) -> int:
    """Count the elements of a tensor whose gradient is 0; all of them if there is no gradient."""
    return leaf.numel() if gradient is None else int((gradient == 0).sum())
