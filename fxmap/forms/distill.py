"""Calibration images without data: optimised until they have the statistics that the source's batch norms remember.

A batch norm keeps the mean and the variance that its inputs had in training. Images under which every norm's input has
these statistics drive each layer as training images did, which is what ranges of activations need. After ZeroQ (Cai et al.
2020, DOI 10.1109/CVPR42600.2020.01318), with images as pyramids (see `fxmap.forms.pyramid`) instead of single pixels.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn
from torch.func import functional_call

from fxmap.capture.symbolic import SYMBOLIC
from fxmap.errors import CaptureError, QuantizationError
from fxmap.forms.pyramid import Pyramid
from fxmap.forms.twin import float_twin
from fxmap.model.inputs import Inputs, as_inputs
from fxmap.model.memory import own_memory
from fxmap.model.restoring import let_through
from fxmap.model.wrappers import unwrap
from fxmap.normalize.network import Network
from fxmap.run.example_inputs import find_inputs

logger = logging.getLogger(__name__)


_IMAGES, _STEPS, _RATE = 32, 60, 0.05


# Of Adam: a memory of tens of steps, as there are only tens of steps.
_BETAS = (0.8, 0.99)


# Seconds before progress is shown.
_PATIENCE = 2.0


_SIZE = "Pass example_inputs=(x,) of the size that it was trained on"


Norm = nn.modules.batchnorm._BatchNorm


def distilled_batches(src: nn.Module | None, state: Mapping[str, Any], example: Any = None) -> tuple[list[Tensor], str]:
    """Distil images for a source with the values of a state dict; also return a sentence for the report.

    Args:
        src: the source, of any form that has a float twin, perhaps wrapped.
        state: its state dict, with the keys of `src`.
        example: inputs whose shape the images get, without the batch; inferred where it is left out.

    Raises:
        QuantizationError: there is no source model, no batch norm in it, or no input that it takes.
    """
    if src is None:
        raise QuantizationError('calibration="distilled" runs the source: pass src=, a model of its architecture')
    inner, prefix = unwrap(src)
    twin = float_twin(inner)
    own = {key.removeprefix(prefix): value for key, value in state.items()}
    tensors = {path: part.evaluate(own).detach().clone() for path, part in twin.decoded().items()}
    model = twin.module.eval()
    own_memory(model)
    images = distilled(model, tensors, _like(model, example))
    size = "x".join(map(str, images[0].shape[1:]))
    return images, (
        f"{len(images[0])} images of {size} were distilled from the statistics of the source's batch norms; where it was "
        "trained on another size, pass example_inputs of that size"
    )


def _like(model: nn.Module, example: Any) -> Tensor:
    try:
        found = [as_inputs(example)] if example is not None else _found_inputs(model)
    except CaptureError as error:
        raise QuantizationError(f'calibration="distilled": {error}. {_SIZE}') from error
    if not found or not found[0].flat():
        raise QuantizationError(f'calibration="distilled": no input was found that the source takes. {_SIZE}')
    return found[0].flat()[0]


def _found_inputs(model: nn.Module) -> list[Inputs]:
    network = Network.of(SYMBOLIC.capture(model))
    return find_inputs(network, network, count=1)


def distilled(
    model: nn.Module, tensors: Mapping[str, Tensor], like: Tensor, *, images: int = _IMAGES, steps: int = _STEPS
) -> list[Tensor]:
    """Make images whose statistics at every batch norm of a float model are the running ones.

    Args:
        model: a float model in eval mode, whose tensors must not require gradients; it is not changed.
        tensors: the values of its parameters and buffers, by path.
        like: an input of the model, b c ...: its shape without the batch is that of the images.
        images: how many.
        steps: of Adam.

    Returns:
        One batch, `images c ...`. The global random state is neither read nor changed.

    Raises:
        QuantizationError: the model has no batch norm with statistics, or does not run on such images.

    Cost: a forward and a backward pass of `images` images a step.
    """
    norms = [path for path, part in model.named_modules() if isinstance(part, Norm) and part.running_mean is not None]
    if not norms or not like.is_floating_point():
        what = "the source has no batch norm that keeps statistics" if not norms else f"its input is {like.dtype}"
        raise QuantizationError(
            f'calibration="distilled" makes images from the statistics of batch norms, and {what}. '
            "Give calibration=batches with a few dozen typical inputs instead"
        )
    pyramid = Pyramid((images, *like.shape[1:]), torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(pyramid.parameters(), lr=_RATE, betas=_BETAS)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    start = time.perf_counter()
    with _watched(model, norms) as errors, _progress(steps) as advance:
        for step in range(steps):
            optimizer.zero_grad()
            loss = _mismatch(model, tensors, pyramid(), errors)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            advance(step, loss.item())
    logger.info("distilled %d images in %.1f s", images, time.perf_counter() - start)
    return [pyramid().detach()]


def _mismatch(model: nn.Module, tensors: Mapping[str, Tensor], batch: Tensor, errors: list[Tensor]) -> Tensor:
    errors.clear()
    try:
        functional_call(model, dict(tensors), (batch,))
    except Exception as error:  # whatever a model raises on inputs that do not fit it
        let_through(error)
        raise QuantizationError(
            f'calibration="distilled": the source does not run on images of shape {list(batch.shape)}: {error}. {_SIZE}'
        ) from error
    return torch.stack(errors).mean()


@contextmanager
def _watched(model: nn.Module, norms: list[str]) -> Iterator[list[Tensor]]:
    """Collect how far each norm's input is from its running statistics, while the model runs.

    Of each channel, log(1 + d^2) + log(s)^2, where d is the difference of the means and s the ratio of the standard
    deviations, both relative to the running one. Logarithms, because a channel with almost no variance in training may be
    wrong by a factor of a hundred at first, and would count for more than all others together.
    """
    errors: list[Tensor] = []

    def hook(norm: Any, args: tuple[Tensor, ...]) -> None:
        axes = [axis for axis in range(args[0].dim()) if axis != 1]
        var, mean = torch.var_mean(args[0], axes, correction=0)
        expected = norm.running_var + norm.eps
        distance, ratio = (mean - norm.running_mean) ** 2 / expected, (var + norm.eps) / expected
        errors.append((torch.log1p(distance) + (ratio.log() / 2) ** 2).mean())

    handles = [model.get_submodule(path).register_forward_pre_hook(hook) for path in norms]
    try:
        yield errors
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _progress(steps: int) -> Iterator[Callable[[int, float], None]]:
    """Show progress on a terminal, if it takes longer than a moment."""
    console = Console(stderr=True)
    bar = Progress(console=console, transient=True)
    task = bar.add_task("distilling images", total=steps)
    start = time.perf_counter()

    def advance(step: int, loss: float) -> None:
        late = time.perf_counter() - start > _PATIENCE
        if console.is_terminal and late and not bar.live.is_started:
            bar.start()
        bar.update(task, completed=step + 1, description=f"distilling images, mismatch {loss:.3f}")

    try:
        yield advance
    finally:
        if bar.live.is_started:
            bar.stop()
