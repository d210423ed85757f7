"""The data of the demo, and the float model that is trained on it."""

import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from itertools import chain, count, islice
from pathlib import Path
from typing import Any, Protocol

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from fxmap.forms.fill import run as run_batches

FILE_NAME = "float.pth"


CLASSES = 2


class Progress(Protocol):
    """A callback to which the progress of the current step is reported."""

    def __call__(self, share: float, text: str, detail: str = "") -> None:
        """Report the share that is done (0 to 1), the name of the step, and a detail of it."""


def silent(share: float, text: str, detail: str = "") -> None:
    """Report nothing."""


@dataclass(frozen=True)
class Network:
    """A network that torchvision has as a float model and as a quantizable one."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def float_model(self) -> nn.Module:
        """Build the float model with a new head, as one does for fine-tuning."""
        model: Any = getattr(torchvision.models, self.name)(weights=None, **self.options)
        model.fc = nn.Linear(model.fc.in_features, CLASSES)
        return model  # type: ignore[no-any-return]

    def quantizable(self, **options: Any) -> nn.Module:
        """Build the quantizable model; with `quantize=True`, the int8 one."""
        build = getattr(torchvision.models.quantization, self.name)
        return build(weights=None, num_classes=CLASSES, **self.options, **options)  # type: ignore[no-any-return]


# init_weights=False leaves the initial values to the layers: the slow truncated normal is of no use here.
INCEPTION = Network("inception_v3", {"aux_logits": False, "init_weights": False})


@dataclass(frozen=True)
class Settings:
    """The network, images and training options of the demo; tests use smaller ones."""

    network: Network = INCEPTION
    digits: tuple[int, int] = (3, 8)
    image_size: int = 80  # Inception-v3 takes no less than 75
    train_images: int = 256
    calibration_images: int = 64
    batch_size: int = 16
    steps: int = 40
    learning_rate: float = 2e-3
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW
    seed: int = 0


@dataclass(frozen=True)
class Digits:
    """Images `b 3 h w` in [-1, 1] and labels `b`, to train on and held out."""

    images: Tensor
    labels: Tensor
    held_out_images: Tensor
    held_out_labels: Tensor


def require_digits() -> None:
    """Check that the images can be loaded, before anything else is done.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.
    """
    import_module("sklearn.datasets")


def load_digits(settings: Settings) -> Digits:
    """Read two classes of the digits that scikit-learn ships, 8x8 grey, and enlarge them."""
    from sklearn.datasets import load_digits as load

    pixels, targets = load(return_X_y=True)
    targets = torch.as_tensor(targets)
    chosen = (targets == settings.digits[0]) | (targets == settings.digits[1])
    labels = (targets[chosen] == settings.digits[1]).long()
    small = torch.as_tensor(pixels, dtype=torch.float32)[chosen].reshape(-1, 1, 8, 8) / 8 - 1
    images = functional.interpolate(small, size=settings.image_size, mode="bilinear").expand(-1, 3, -1, -1)
    order = torch.randperm(len(labels))
    train, held_out = order[: settings.train_images], order[settings.train_images :]
    return Digits(images[train], labels[train], images[held_out], labels[held_out])


def fine_tune(model: nn.Module, data: Digits, settings: Settings, progress: Progress = silent) -> None:
    """Train for a few steps, then recompute the batch norms' running statistics; leaves the model in eval mode."""
    optimizer = settings.optimizer(model.parameters(), lr=settings.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, total_steps=settings.steps)
    text = f"fine-tuning {settings.network.name}"
    model.train()
    for step, batch in enumerate(batches_of(len(data.labels), settings)):
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(data.images[batch]), data.labels[batch])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        progress((step + 1) / settings.steps, text, f"step {step + 1} of {settings.steps}, loss {loss.item():.2f}")
    _measure_statistics(model, torch.split(data.images, 2 * settings.batch_size))


def batches_of(total: int, settings: Settings) -> Iterator[Tensor]:
    """Yield the indices of each step's images, epoch after epoch."""
    epochs = chain.from_iterable(torch.split(torch.randperm(total), settings.batch_size) for _ in count())
    return islice(epochs, settings.steps)


def _measure_statistics(model: nn.Module, batches: Sequence[Tensor]) -> None:
    # The running averages lag behind weights that moved quickly for a few steps; eval mode would suffer.
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over the batches
    run_batches(model.train(), batches)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


@contextmanager
def isolated(seed: int) -> Iterator[None]:
    """Seed torch, halve its threads and silence its deprecation warnings; all of this is undone when the block ends."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        for about in ("torch.ao", "torch.quantize_per", "must run observer", "Please use quant_min", "_aminmax"):
            warnings.filterwarnings("ignore", message=f".*{about}")
        torch.default_generator.manual_seed(seed)
        # As many threads as cores wait for each other as soon as anything else runs: with one of two cores busy, the demo
        # took 370 s on two threads and 90 s on one.
        torch.set_num_threads(max(1, threads // 2))
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def output_file(output: Path | None, force: bool = False) -> Path:
    """Choose where float.pth goes: into `output`, or into a new temporary directory.

    Raises:
        FileExistsError: it is there already, and `force` is not given.
    """
    if output is None:
        return Path(tempfile.mkdtemp(prefix="fxmap-demo-")) / FILE_NAME
    file = output / FILE_NAME
    if file.exists() and not force:
        raise FileExistsError(f"{file} is there already; give --force to overwrite it, or another --output")
    output.mkdir(parents=True, exist_ok=True)
    return file
