"""Print the results of the demo, in the order in which a reader asks for them."""

from collections import Counter
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table

from fxmap.cli.demo.data import FILE_NAME, Digits, Settings
from fxmap.cli.demo.measure import Measured, Source
from fxmap.cli.tables import print_table
from fxmap.mapping.proof import Status

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


def _heading(console: Console, text: str) -> None:
    console.print(f"\n{text}", style="bold", markup=False)


def _table(form: str, *columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, header_style="bold")
    table.add_column(form, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def print_source(console: Console, source: Source, data: Digits, settings: Settings) -> None:
    """Print the trained network, its accuracy on held-out images, and its file."""
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
    """Print for each form how many of the destination's keys were mapped, calibrated, kept, missing and proven."""
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
    print_table(console, table)
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
    print_table(console, table)
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
    """Print the code that a user writes to load the file."""
    _heading(console, "5. The code that does it")
    # As text: a Syntax by itself would fill, and cut, every line to the width of the console.
    code = Syntax("", "python", theme="ansi_dark").highlight(USER_CODE)
    code.rstrip()
    console.print(code, soft_wrap=True)
