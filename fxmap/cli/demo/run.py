"""`fxmap demo`: float Inception-v3, fine-tuned on real digits, loaded into every eager quantized form of itself.

Each form is filled twice: by `fxmap.load` from the saved file, and by the reference recipe, which loads the float weights
into the quantizable model *before* it is fused, prepared and converted with the same calibration images. The output
compares the two, and both with the float model. Every figure is measured in the run that prints it.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from rich.console import Console

from fxmap.cli.demo.data import FILE_NAME, Progress, Settings, fine_tune, isolated, load_digits
from fxmap.cli.demo.forms import FORMS
from fxmap.cli.demo.measure import Measured, Source, logits, measure
from fxmap.cli.demo.printing import print_keys, print_source, print_today, print_user_code, print_values

_SETTINGS = Settings()


def run(
    file: Path,
    console: Console,
    progress: Callable[[], AbstractContextManager[Progress]],
    settings: Settings = _SETTINGS,
) -> list[Measured]:
    """Run the demo: print the results to `console`, and return the measurements.

    Args:
        file: where the fine-tuned float weights are saved.
        console: where results are printed.
        progress: makes, for each of the two long parts, a context manager that gives a `Progress`.
        settings: the network, images and training options.

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
