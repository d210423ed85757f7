"""Calibration: set the statistics of batch norms to measured ones, during a run that is needed anyway.

With random statistics, activations would grow or die within a few layers. So every batch norm gets the mean and variance of
its input when the run first reaches it, disturbed at random: with the measured values exactly, its output would have mean 0
and variance 1 whatever the layers before it compute.

Cost: one forward pass, which returns its outputs as any other does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from fxmap.graph.arguments import bind
from fxmap.normalize.network import Network
from fxmap.run.interpreter import Hook, ValueInterpreter


@dataclass(frozen=True, slots=True)
class Disturbance:
    """How far the statistics given to a batch norm differ from the measured ones."""

    # The variance is multiplied by a uniform number between `least` and `least + spread`: 1 on average, not 1 by channel.
    least: float = 0.6
    spread: float = 0.8
    # A dead or constant channel has variance 0: a share of the average variance and a floor keep its output from exploding.
    share_of_average: float = 0.05
    floor: float = 0.02
    # Statistics of fewer numbers than this are drawn towards those of all channels: one number has itself as its mean, and
    # what a norm leaves of it is rounding.
    few: int = 16
    # The mean is shifted by about so many standard deviations: few enough that few channels die in the ReLU behind.
    shift: float = 0.2


DISTURBANCE = Disturbance()


def run_calibrated(
    captured: Network,
    tensors: Mapping[str, Tensor],
    arguments: Sequence[Any],
    generator: torch.Generator,
    hook: Hook | None = None,
) -> tuple[dict[str, Tensor], Any]:
    """Run a captured model; return its tensors, with the statistics that the run measured, and its output.

    `hook(node, value)` is called with every value, and returns the value to continue with.

    >>> from torch import nn
    >>> from fxmap.capture.symbolic import capture_symbolic
    >>> norm = Network.of(capture_symbolic(nn.BatchNorm1d(1, affine=False)))
    >>> x = torch.tensor([[100.0], [102.0]] * 10, dtype=torch.float64)
    >>> own = {"running_mean": torch.zeros(1).double(), "running_var": torch.ones(1).double()}
    >>> measured, _ = run_calibrated(norm, own, [x], torch.Generator().manual_seed(0))
    >>> bool((measured["running_mean"] - 101).abs() < 1), own["running_mean"].item()
    (True, 0.0)
    """
    runner = _Calibrator(captured, dict(tensors), generator, hook)
    output = runner.run(*arguments)
    return runner.calibrated, output


class _Calibrator(ValueInterpreter):
    """An interpreter that sets the statistics of each batch norm, in `calibrated`, when it first runs."""

    def __init__(
        self, captured: Network, calibrated: dict[str, Tensor], generator: torch.Generator, hook: Hook | None
    ) -> None:
        super().__init__(captured, calibrated, hook)
        self.generator = generator
        self.calibrated = calibrated
        self.met: set[str] = set()

    def before_batch_norm(self, node: fx.Node, value: Tensor) -> None:
        """Measure the input of a batch norm when it first runs; a norm that runs again keeps its statistics."""
        arguments = bind(node)
        paths = [
            str(part.target)
            for name in ("running_mean", "running_var")
            if isinstance(part := arguments.get(name), fx.Node) and part.op == "get_attr"
        ]
        if len(paths) != 2 or paths[0] in self.met:
            return
        dims = [d for d in range(value.dim()) if d != 1]
        var, mean = torch.var_mean(value, dims, unbiased=False)
        noise = torch.rand(var.shape, generator=self.generator, dtype=torch.float64)
        shift = torch.randn(var.shape, generator=self.generator, dtype=torch.float64)
        by = DISTURBANCE
        wider = var * (by.least + by.spread * noise) + by.share_of_average * var.mean() + by.floor
        count = value.numel() // max(value.shape[1], 1)
        if count < by.few:
            wider, mean = wider + mean.square().mean() / max(count, 1), mean * (1 - 1 / max(count, 1))
        self._set(paths[1], wider.to(value.dtype))
        self._set(paths[0], (mean + by.shift * shift * var.sqrt()).to(value.dtype))
        self.met.add(paths[0])

    def _set(self, path: str, value: Tensor) -> None:
        """Set a tensor under every path that shares it."""
        old = self.calibrated[path]
        self.calibrated.update({name: value for name, tensor in self.calibrated.items() if tensor is old})
