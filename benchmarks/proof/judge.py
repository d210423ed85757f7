"""The judge of near misses: runs two models in float64 on several inputs, and shares no code with fxmap.

It knows nothing of graphs, mappings or proofs: it is given the tensors of both models, and says how far apart their outputs
are, and in which order the destination's modules ran.
"""

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# Functions that differ by less, relative to the largest output, are one function to the judge: rounding is 1e-13.
SAME = 1e-9


class Float64(TorchFunctionMode):
    """Turns what a model computes in float32 by itself into float64, inside a `with` block."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace float32 wherever it is asked for."""
        if func is Tensor.float:
            func = Tensor.double
        args = tuple(torch.float64 if part is torch.float32 else part for part in args)
        kwargs = {name: torch.float64 if part is torch.float32 else part for name, part in (kwargs or {}).items()}
        return func(*args, **kwargs)


def randomise(model: nn.Module, seed: int) -> nn.Module:
    """Give a model random tensors in float64, in place: nothing is 0 or 1, and activations stay alive."""
    generator = torch.Generator().manual_seed(seed)
    model.double()
    norms = tuple(kind for name, kind in vars(nn).items() if "Norm" in name)
    gains = {id(m.weight) for m in model.modules() if isinstance(m, norms) and getattr(m, "weight", None) is not None}
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if not tensor.is_floating_point() or "inv_freq" in name:
                continue
            normal = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            gain = id(tensor) in gains or (tensor.dim() == 1 and name.endswith("weight"))
            if gain or name.endswith("running_var"):
                tensor.copy_(0.6 + 0.8 * torch.rand(tensor.shape, generator=generator, dtype=torch.float64))
            elif tensor.dim() > 1:
                tensor.copy_(normal * (1.6 / math.sqrt(tensor[0].numel())))
            else:
                tensor.copy_(0.3 * normal)
    return model.eval()


def outputs(model: nn.Module, inputs: Any) -> list[Tensor]:
    """Run a model and return the tensors of its output."""
    with torch.no_grad(), Float64():
        result = model(**inputs) if isinstance(inputs, dict) else model(*inputs)
    if isinstance(result, Tensor):
        return [result]
    parts = result.values() if isinstance(result, dict) else result
    return [part for part in parts if isinstance(part, Tensor)]


class Judge:
    """Holds what the source computes, and says how far a destination with given tensors is from it."""

    def __init__(self, src: nn.Module, inputs: list[Any]) -> None:
        self.inputs = inputs
        self.expected = [outputs(src, choice) for choice in inputs]

    def distance(self, dst: nn.Module, tensors: Mapping[str, Tensor]) -> float:
        """Return the largest relative distance of the outputs over all inputs; infinite where shapes differ.

        Raises:
            RuntimeError, ValueError: whatever the destination raises where it does not run.
        """
        dst.load_state_dict(tensors, strict=False)
        return max(
            _distance(expected, outputs(dst, choice)) for expected, choice in zip(self.expected, self.inputs, strict=True)
        )

    def order(self, dst: nn.Module) -> list[str]:
        """Return the paths of the destination's modules in the order in which they are first entered."""
        entered: dict[str, None] = {}
        twin = copy.deepcopy(dst)
        for path, module in twin.named_modules():
            module.register_forward_pre_hook(lambda _module, _args, path=path: entered.setdefault(path, None))
        outputs(twin, self.inputs[0])
        return list(entered)


def _distance(expected: list[Tensor], actual: list[Tensor]) -> float:
    if len(expected) != len(actual):
        return math.inf
    return max(_relative(a, b) for a, b in zip(expected, actual, strict=True))


def _relative(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape or not bool(torch.isfinite(b).all()):
        return math.inf
    return float((a - b).abs().max() / a.abs().max())
