"""`python -m benchmarks calibration`: where the ranges of int8 activations come from, and what each way is worth.

Torchvision's networks are trained on the ten digits that scikit-learn ships, filled into their int8 forms by
`fxmap.transfer`, and compared with the float network on digits that neither training nor calibration saw. What int8 weights
cost alone is about the most that any ranges can reach.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.ao.quantization as tq
import torchvision
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional

import fxmap
from benchmarks.common.output import progress, write_json
from fxmap.cli.demo.data import Digits, Settings, fine_tune, isolated
from fxmap.cli.tables import print_table
from fxmap.testing import compare
from fxmap.testing.recipes import forms, models
from fxmap.testing.recipes.forms import Form

CLASSES, IMAGE, TRAINED_ON = 10, 80, 1440
FEW, MANY, BATCH = 64, 256, 16  # images to calibrate on
ADAM, SGD = "AdamW", "SGD"
OPTIMIZERS: dict[str, tuple[Callable[..., torch.optim.Optimizer], float]] = {
    ADAM: (torch.optim.AdamW, 2e-3),
    SGD: (partial(torch.optim.SGD, momentum=0.9, weight_decay=5e-4), 0.2),
}
# How well int8 weights do depends on the training, so the network whose activations saturate is trained in two ways.
NETWORKS = (("resnet18", ADAM), ("inception_v3", ADAM), ("mobilenet_v2", ADAM), ("mobilenet_v2", SGD))

REAL, DISTILLED, CLAMP = "real images", "distilled", "real images, clamp"
SEVEN, EIGHT = "default_observer (7 bits)", "min and max (8 bits)"


@dataclass
class Row:
    """One way to ranges: the engine that computes, dB against the float network, equal predictions, seconds of transfer."""

    model: str
    training: str
    accuracy: float
    calibration: str
    images: int | None = None
    observers: str = ""
    engine: str = "float"
    sqnr: float | None = None
    agreement: float | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Trained:
    """A trained float network, its data, and its outputs on the held-out images."""

    name: str
    training: str
    model: nn.Module
    data: Digits
    logits: Tensor

    def row(self, calibration: str, output: Tensor | None = None, **more: Any) -> Row:
        """Compare an output on the held-out images with the float network's."""
        right = float((self.logits.argmax(1) == self.data.held_out_labels).float().mean())
        row = Row(self.name, self.training, right, calibration, **more)
        if output is not None:
            row.sqnr = fxmap.sqnr(self.logits, output)
            row.agreement = float((output.argmax(1) == self.logits.argmax(1)).float().mean())
        return row


def command(
    models: Annotated[str, typer.Option(help="Only these models, separated by commas.")] = "",
    steps: Annotated[int, typer.Option(min=1, help="Of training.")] = 200,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch: one, where the cores are shared.")] = 1,
    json_file: Annotated[Path | None, typer.Option("--json", dir_okay=False, help="Write the rows to this file.")] = None,
) -> None:
    """Train networks on digits, and compare int8 ranges from data, from distilled images, and clamped, with float."""
    names = {name.strip() for name in models.split(",") if name.strip()}
    if names - {name for name, _ in NETWORKS}:
        raise typer.BadParameter(f"there are {', '.join(dict(NETWORKS))}", param_hint="--models")
    torch.set_num_threads(threads)
    start = time.perf_counter()
    chosen = [network for network in NETWORKS if not names or network[0] in names]
    measured = (list(measure(train(name, training, steps))) for name, training in chosen)
    rows = [row for found in progress(measured, len(chosen), lambda found: found[0].model) for row in found]
    seconds = time.perf_counter() - start
    _print(rows, seconds)
    if json_file is not None:
        write_json(json_file, "calibration", [asdict(row) for row in rows], seconds, steps=steps)


def train(name: str, training: str, steps: int) -> Trained:
    """Train a network of torchvision on the ten digits."""
    optimizer, rate = OPTIMIZERS[training]
    settings = Settings(batch_size=32, steps=steps, learning_rate=rate, optimizer=optimizer)
    with isolated(settings.seed):
        data = digits()
        model = getattr(torchvision.models, name)(weights=None, num_classes=CLASSES, **_options(name))
        fine_tune(model, data, settings)
        return Trained(name, training, model, data, compare.output(model, data.held_out_images))


def digits() -> Digits:
    """Read the digits, 8x8 grey, in an order drawn from the global generator, and enlarge them."""
    from sklearn.datasets import load_digits

    pixels, labels = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
    order = torch.randperm(len(labels))
    small = pixels[order].float().reshape(-1, 1, 8, 8) / 8 - 1
    images = functional.interpolate(small, size=IMAGE, mode="bilinear").expand(-1, 3, -1, -1)
    labels = labels[order]
    return Digits(images[:TRAINED_ON], labels[:TRAINED_ON], images[TRAINED_ON:], labels[TRAINED_ON:])


def _options(name: str) -> dict[str, Any]:
    return models.MODELS[name].options | ({"aux_logits": False} if name == "inception_v3" else {})


def measure(trained: Trained) -> Iterator[Row]:
    """Fill the int8 form of a trained network in every way."""
    yield trained.row("int8 weights alone", compare.output(with_int8_weights(trained), trained.data.held_out_images))
    yield _filled(trained, REAL)
    yield _filled(trained, DISTILLED)
    if any(isinstance(part, nn.ReLU6) for part in trained.model.modules()):
        plain = models.quantizable_model(trained.name, num_classes=CLASSES)
        plain.load_state_dict(trained.model.state_dict())
        yield trained.row("ReLU instead of ReLU6", compare.output(plain, trained.data.held_out_images))
        yield _filled(trained, REAL, MANY)
        for engine in ("x86", "onednn", "qnnpack"):
            for images, observers in ((FEW, SEVEN), (FEW, EIGHT), (MANY, SEVEN), (MANY, EIGHT)):
                yield _filled(trained, CLAMP, images, observers, engine)


def _filled(trained: Trained, calibration: str, images: int = FEW, observers: str = SEVEN, engine: str = "x86") -> Row:
    if engine not in torch.backends.quantized.supported_engines:
        return trained.row(calibration, observers=observers, engine=f"{engine}: not in this build of torch")
    other = models.randomised_float(trained.name, seed=2, num_classes=CLASSES, **_options(trained.name))
    destination = forms.build_form(
        trained.name,
        Form.INT8_CHANNEL,
        other.state_dict(),
        models.images(4),
        num_classes=CLASSES,
        **_options(trained.name),
    )
    batches = trained.data.images[:images].split(BATCH)  # type: ignore[no-untyped-call]
    with forms.engine(engine):
        start = time.perf_counter()
        fxmap.transfer(
            trained.model,
            destination,
            calibration=DISTILLED if calibration == DISTILLED else batches,
            relu6="clamp" if calibration == CLAMP else "reference",
            qconfig=None if observers == SEVEN else eight_bits(),
            example_inputs=trained.data.images[:1],
            verify=False,
        )
        seconds = time.perf_counter() - start
        output = compare.output(destination, trained.data.held_out_images)
    used = None if calibration == DISTILLED else images
    return trained.row(calibration, output, images=used, observers=observers, engine=engine, seconds=seconds)


def eight_bits() -> Any:
    """Return torchvision's qconfig with all of 0..255 for activations; `default_observer` leaves one bit unused."""
    activation = tq.MinMaxObserver.with_args(dtype=torch.quint8, qscheme=torch.per_tensor_affine)
    return tq.QConfig(activation=activation, weight=tq.default_per_channel_weight_observer)


def with_int8_weights(trained: Trained) -> nn.Module:
    """Return the float network with weights rounded to int8 for each output channel; folding a norm scales channels only."""
    model = models.float_model(trained.name, num_classes=CLASSES, **_options(trained.name))
    model.load_state_dict(trained.model.state_dict())
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            observer = tq.default_per_channel_weight_observer()
            observer(module.weight)
            scale, zero_point = observer.calculate_qparams()
            module.weight.data = torch.fake_quantize_per_channel_affine(
                module.weight.data, scale, zero_point.int(), 0, -128, 127
            )
    return model


def _print(rows: list[Row], seconds: float) -> None:
    table = Table(title="int8 against float, on held-out digits", pad_edge=False)
    for title in (
        "model",
        "trained with",
        "accuracy",
        "calibration",
        "images",
        "observers",
        "engine",
        "dB",
        "same answers",
        "s",
    ):
        table.add_column(title, justify="right" if title in ("accuracy", "images", "dB", "same answers", "s") else "left")
    before: tuple[str, str] | None = None
    for row in rows:
        first = (row.model, row.training) != before
        if first and before is not None:
            table.add_section()
        before = row.model, row.training
        table.add_row(
            *((row.model, row.training, f"{row.accuracy:.3f}") if first else ("", "", "")),
            row.calibration,
            "" if row.images is None else str(row.images),
            row.observers,
            row.engine,
            "" if row.sqnr is None else f"{row.sqnr:.1f}",
            "" if row.agreement is None else f"{row.agreement:.3f}",
            "" if row.seconds is None else f"{row.seconds:.1f}",
        )
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    print_table(console, table)
    console.print(f"{seconds:.0f} s in all, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")
