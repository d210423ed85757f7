"""`fxmap demo`: float Inception-v3, fine-tuned on real digits, loaded into every eager quantized form of itself.

Each form is filled twice: by `fxmap.load` from the saved file, and by the reference recipe, which loads the float weights
into the quantizable model *before* it is fused, prepared and converted with the same calibration images. What is printed
compares the two, and both with the float model. Every figure is measured in the run that prints it.
"""

import re
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from importlib import import_module
from itertools import chain, count, islice
from pathlib import Path
from typing import Any, Protocol

import torch
import torchvision
from rich import box
from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional

import fxmap
from fxmap.mapping import KeyMapping
from fxmap.proof import Status
from fxmap.quantization.calibrate import run as run_batches

FILE_NAME = "float.pth"
CLASSES = 2

# What a user would write. The tests run it.
USER_CODE = """\
import fxmap, torch, torchvision

# The architecture of float.pth; the weights of this model do not matter.
src = torchvision.models.inception_v3(weights=None, aux_logits=False, init_weights=False)
src.fc = torch.nn.Linear(2048, 2)
dst = torchvision.models.quantization.inception_v3(
    weights=None, quantize=True, num_classes=2, aux_logits=False, init_weights=False
)
mapping = fxmap.load(dst, "float.pth", src=src, calibration=images)  # images: a few dozen, batched
print(mapping)  # what was mapped, how, and what is proven
"""


class Progress(Protocol):
    """Something that is told how far the present part is."""

    def __call__(self, share: float, text: str, detail: str = "") -> None:
        """Take the share that is done (0 to 1), what is under way, and a detail of it."""


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
    """What the demo runs on; tests run it on less."""

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
    """Make sure that there are images, before anything is done.

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
    """Train for a few steps, then measure the batch norms' statistics anew; leaves the model in eval mode."""
    optimizer = settings.optimizer(model.parameters(), lr=settings.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, total_steps=settings.steps)
    text = f"fine-tuning {settings.network.name}"
    model.train()
    for step, batch in enumerate(_batches(len(data.labels), settings)):
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(data.images[batch]), data.labels[batch])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        progress((step + 1) / settings.steps, text, f"step {step + 1} of {settings.steps}, loss {loss.item():.2f}")
    _measure_statistics(model, torch.split(data.images, 2 * settings.batch_size))


def _batches(total: int, settings: Settings) -> Iterator[Tensor]:
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


# The forms, and the reference recipe of each: from a quantizable model that holds the float weights.


def as_is(model: Any, batches: Sequence[Tensor], engine: str) -> nn.Module:
    """Leave the quantizable model as it is."""
    return model  # type: ignore[no-any-return]


def fuse(model: Any, batches: Sequence[Tensor], engine: str) -> nn.Module:
    """Fuse for inference: batch norms are folded."""
    model.eval().fuse_model(is_qat=False)
    return model  # type: ignore[no-any-return]


def fuse_qat(model: Any, batches: Sequence[Tensor], engine: str) -> nn.Module:
    """Fuse for quantization-aware training: batch norms stay."""
    model.train().fuse_model(is_qat=True)
    return model  # type: ignore[no-any-return]


def prepare(model: Any, batches: Sequence[Tensor], engine: str) -> nn.Module:
    """Fuse, put in observers as torchvision's quantize_model does, and calibrate where there are batches."""
    import torch.ao.quantization as tq

    per_channel = engine == "fbgemm"
    weight = tq.default_per_channel_weight_observer if per_channel else tq.default_weight_observer
    model.eval()
    model.qconfig = tq.QConfig(activation=tq.default_observer, weight=weight)
    model.fuse_model()
    tq.prepare(model, inplace=True)
    if batches:
        run_batches(model, batches)
    return model  # type: ignore[no-any-return]


def prepare_qat(model: Any, batches: Sequence[Tensor], engine: str) -> nn.Module:
    """Fuse and put in fake quantizers for quantization-aware training."""
    import torch.ao.quantization as tq

    fuse_qat(model, batches, engine)
    model.qconfig = tq.get_default_qat_qconfig(engine)
    tq.prepare_qat(model, inplace=True)
    return model  # type: ignore[no-any-return]


def convert(model: Any, batches: Sequence[Tensor], engine: str) -> nn.Module:
    """Fuse, prepare, calibrate, and convert to static int8."""
    import torch.ao.quantization as tq

    prepare(model, batches, engine)
    tq.convert(model, inplace=True)
    return model  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Form:
    """One quantized form: how the reference makes it, and what it needs."""

    name: str
    recipe: Callable[[Any, Sequence[Tensor], str], nn.Module]
    calibrated: bool = False
    int8: bool = False
    engine: str = "fbgemm"

    def destination(self, network: Network) -> nn.Module:
        """Build the form with weights of its own, as a user has it who built the model first."""
        if self.int8:
            return network.quantizable(quantize=True, backend=self.engine)
        return self.recipe(network.quantizable(), (), self.engine)

    def reference(self, network: Network, state: Mapping[str, Any], batches: Sequence[Tensor]) -> nn.Module:
        """Load the float weights first, and make the form of that."""
        model = network.quantizable()
        model.load_state_dict(state)
        return self.recipe(model, batches, self.engine)


FORMS = (
    Form("quantizable", as_is),
    Form("fused for eval", fuse),
    Form("fused for QAT", fuse_qat),
    Form("prepared, observers", prepare, calibrated=True),
    Form("prepared for QAT", prepare_qat),
    Form("int8 per channel, fbgemm", convert, calibrated=True, int8=True),
    Form("int8 per tensor, qnnpack", convert, calibrated=True, int8=True, engine="qnnpack"),
)


@dataclass(frozen=True)
class Measured:
    """What was measured of one form.

    `error` and `reference_error` are relative to the float model's largest logit; for int8 they are SQNR in dB.
    `differing` is the number of state dict keys that differ from the reference's, `agreeing` of predictions that are the
    float model's.
    """

    form: Form
    today: str
    mapping: KeyMapping
    error: float
    reference_error: float
    differing: int
    agreeing: int


@dataclass(frozen=True)
class Source:
    """The fine-tuned float model, its file, images to calibrate with, and what it says of held-out ones."""

    network: Network
    model: nn.Module
    file: Path
    calibration: tuple[Tensor, ...]
    held_out: Tensor
    logits: Tensor


def measure(form: Form, source: Source) -> Measured:
    """Fill one form by fxmap and by the reference recipe, and compare both with the float source."""
    state = torch.load(source.file, weights_only=True)
    with quantized_engine(form.engine):
        dst = form.destination(source.network)
        today = load_state_dict_today(deepcopy(dst), state)
        calibration = source.calibration if form.calibrated else None
        mapping = fxmap.load(dst, source.file, src=source.model, calibration=calibration)
        reference = form.reference(source.network, state, source.calibration)
        differing = count_differing(dst.state_dict(), reference.state_dict())
        actual, usual = (logits(model, source.held_out) for model in (dst, reference))
    return Measured(
        form,
        today,
        mapping,
        _distance(form, source.logits, actual),
        _distance(form, source.logits, usual),
        differing,
        int((source.logits.argmax(1) == actual.argmax(1)).sum()),
    )


def _distance(form: Form, expected: Tensor, actual: Tensor) -> float:
    if form.int8:
        return fxmap.sqnr(expected, actual)
    return float((actual - expected).abs().max() / expected.abs().max())


def load_state_dict_today(dst: nn.Module, state: Mapping[str, Any]) -> str:
    """Say how the plain `dst.load_state_dict(state)` ends; it may change `dst`.

    >>> load_state_dict_today(nn.Linear(2, 3), nn.Linear(2, 3).state_dict())
    'all 2 keys match'
    >>> load_state_dict_today(nn.Linear(2, 3), {"weight": torch.zeros(3, 2), "b": torch.zeros(3)})
    'RuntimeError: 1 key missing, 1 unexpected'
    """
    try:
        dst.load_state_dict(state)
    except Exception as error:  # torch raises what it raises: that is what is shown
        # As its message lists them, which names some keys of fake quantizers more than once.
        missing, unexpected = (_count_named(kind, str(error)) for kind in ("Missing", "Unexpected"))
        if not missing and not unexpected:
            return traceback.format_exception_only(error)[-1].strip()
        return f"{type(error).__name__}: {missing} key{'' if missing == 1 else 's'} missing, {unexpected} unexpected"
    return f"all {len(state)} keys match"


def _count_named(kind: str, message: str) -> int:
    found = re.search(rf"{kind} key\(s\) in state_dict: (.*)", message)
    return len(set(found[1].split(", "))) if found else 0


def count_differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> int:
    """Count the keys that only one of two state dicts has, or whose values are not bit-equal."""
    return sum(key not in one or key not in other or not _same(one[key], other[key]) for key in one.keys() | other.keys())


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return bool(one == other)
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    if one.is_quantized:
        # Equal integers under equal scales and zero points.
        same_integers = torch.equal(one.int_repr(), other.int_repr())
        return one.qscheme() == other.qscheme() and same_integers and torch.equal(one.dequantize(), other.dequantize())
    return torch.equal(one, other)


def logits(model: nn.Module, images: Tensor) -> Tensor:
    """Run in eval mode, with fake quantizers off: what remains of a QAT model is its float network."""
    import torch.ao.quantization as tq

    model.eval().apply(tq.disable_fake_quant).apply(tq.disable_observer)
    with torch.no_grad():
        return torch.cat([model(batch) for batch in torch.split(images, 64)])


@contextmanager
def quantized_engine(name: str) -> Iterator[None]:
    """Compute int8 with one of torch's engines, and put the old one back."""
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = name
    try:
        yield
    finally:
        torch.backends.quantized.engine = before


@contextmanager
def isolated(seed: int) -> Iterator[None]:
    """Seed torch, use half of its threads, and silence its notices about its own deprecations; all end with the block."""
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


def run(
    file: Path,
    console: Console,
    progress: Callable[[], AbstractContextManager[Progress]],
    settings: Settings = Settings(),
) -> list[Measured]:
    """Run the demo: print what happens to `console`, and return what was measured.

    Args:
        file: where the fine-tuned float weights are saved.
        console: where results are printed.
        progress: makes, for each of the two long parts, a context manager that gives a `Progress`.
        settings: what to run on.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.
    """
    started = time.monotonic()
    forms = [form for form in FORMS if form.engine in torch.backends.quantized.supported_engines]
    with isolated(settings.seed):
        data = load_digits(settings)
        src = settings.network.float_model()
        with progress() as tell:
            fine_tune(src, data, settings, tell)
        torch.save(src.state_dict(), file)
        calibration = torch.split(data.images[: settings.calibration_images], settings.batch_size)
        expected = logits(src, data.held_out_images)
        source = Source(settings.network, src, file, calibration, data.held_out_images, expected)
        print_source(console, source, data, settings)
        results = []
        with progress() as tell:
            for index, form in enumerate(forms):
                tell(index / len(forms), f"loading {FILE_NAME} into: {form.name}")
                results.append(measure(form, source))
    print_today(console, results)
    print_keys(console, results)
    print_values(console, results, source)
    for form in FORMS:
        if form not in forms:
            console.print(f"left out: {form.name}: this build of torch does not have the engine {form.engine!r}")
    print_user_code(console)
    console.print(f"\n{time.monotonic() - started:.0f} s in all", style="dim")
    return results


# What is printed. Words about what the columns are come from here, figures from what was measured.


def _heading(console: Console, text: str) -> None:
    console.print(f"\n{text}", style="bold", markup=False)


def _table(form: str, *columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, header_style="bold")
    table.add_column(form, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def print_source(console: Console, source: Source, data: Digits, settings: Settings) -> None:
    """Say what was trained, how good it is, and where it lies."""
    right = int((source.logits.argmax(1) == data.held_out_labels).sum())
    count = len(data.held_out_labels)
    first, second = settings.digits
    _heading(console, "1. A float model, fine-tuned")
    console.print(
        f"torchvision.models.{settings.network.name} on scikit-learn's digits {first} and {second}: "
        f"{len(data.labels)} images, {settings.steps} steps"
    )
    console.print(f"right on {right} of {count} held-out digits ({right / count:.1%})")
    keys, size = len(source.model.state_dict()), source.file.stat().st_size / 1e6
    console.print(f"saved: {source.file} ({keys} keys, {size:.0f} MB)", soft_wrap=True, markup=False)


def print_today(console: Console, results: Sequence[Measured]) -> None:
    """Show how the plain load_state_dict ends for each form."""
    _heading(console, f"2. What load_state_dict says today: dst.load_state_dict(torch.load({FILE_NAME!r}))")
    width = max((len(result.form.name) for result in results), default=0)
    for result in results:
        console.print(f"  {result.form.name:{width}}  {result.today}", markup=False)


def print_keys(console: Console, results: Sequence[Measured]) -> None:
    """Show what becomes of the destination's keys."""
    _heading(console, f"3. The same with fxmap.load(dst, {FILE_NAME!r}, src=src): the destination's keys")
    columns = ("keys", "mapped", "made", "calibrated", "kept", "missing", "proven", "inert", "proof")
    table = _table("form", *columns)
    for result in results:
        mapping = result.mapping
        counts = Counter(mapping.knowledge.statuses.values())
        renamed = len(mapping.renames)
        figures = (
            len(mapping.knowledge.statuses),
            renamed,
            len(mapping) - renamed,
            counts[Status.CALIBRATED],
            counts[Status.KEPT],
            counts[Status.MISSING] + counts[Status.MISMATCHED],
            counts[Status.PROVEN] + counts[Status.TIED],
            counts[Status.INERT],
        )
        table.add_row(result.form.name, *map(str, figures), "ok" if mapping.proof and mapping.proof.ok else "not ok")
    console.print(table)
    console.print()
    console.print(
        "mapped: taken as they are. made: batch norms folded, weights quantized. calibrated: activation ranges and "
        "observers, from the images. kept: the destination's own. Of mapped and made, proven: both networks were run with "
        "random weights in float64 and gave the same outputs; inert: the output does not depend on them (batch counters)."
    )
    for result in results:
        if not (result.mapping.proof and result.mapping.proof.ok):
            console.print(f"{result.form.name}: {result.mapping.proof or 'no proof'}", markup=False)


def print_values(console: Console, results: Sequence[Measured], source: Source) -> None:
    """Show how far the filled models are from the float source, beside the reference recipe."""
    count = len(source.held_out)
    _heading(console, f"4. Their outputs on {count} held-out digits, against the float model's")
    table = _table("form", "by fxmap", "reference recipe", "state dict", "same predictions")
    for result in results:
        equal = "bit-equal" if not result.differing else f"{result.differing} keys differ"
        distances = (_show_distance(result, size) for size in (result.error, result.reference_error))
        table.add_row(result.form.name, *distances, equal, f"{result.agreeing} of {count}")
    console.print(table)
    console.print()
    console.print(
        "Float forms: largest error, relative to the largest logit (fake quantizers off). int8: signal to quantization "
        "noise. The reference recipe loads the float weights before the model is fused, prepared and converted, with the "
        f"same {sum(map(len, source.calibration))} calibration images; its state dict is compared bit by bit."
    )


def _show_distance(result: Measured, size: float) -> str:
    if result.form.int8:
        return f"{size:.1f} dB"
    return f"{size:.1e}" if size else "0"


def print_user_code(console: Console) -> None:
    """Show what a user writes."""
    _heading(console, "5. The code that does it")
    # As text: a Syntax by itself would fill, and cut, every line to the width of the console.
    code = Syntax("", "python", theme="ansi_dark").highlight(USER_CODE)
    code.rstrip()
    console.print(code, soft_wrap=True)
