"""The demo's pieces on a network of two convolutions; the whole demo, as a user runs it, is marked slow."""

import re
import subprocess
import sys
import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn
from torchvision.models.quantization.utils import quantize_model

import fxmap
from fxmap.cli.demo import data as demo_data
from fxmap.cli.demo import forms, measure
from fxmap.cli.demo import run as demo
from fxmap.cli.demo.data import Network, Settings, silent
from fxmap.cli.demo.forms import FORMS
from fxmap.cli.demo.measure import Measured
from fxmap.cli.demo.printing import USER_CODE
from fxmap.mapping.proof import Status

pytest.importorskip("sklearn")


class Net(nn.Module):
    """A float network; as torchvision's are: no stubs, a functional relu."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, stride=2, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3, bias=False)
        self.bn2 = nn.BatchNorm2d(16)
        self.fc = nn.Linear(16, demo_data.CLASSES)

    def forward(self, x: Any) -> Any:
        x = nn.functional.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        return self.fc(x.mean((2, 3)))


class QuantizableNet(Net):
    """The same network, ready for eager quantization."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.quant = torch.ao.quantization.QuantStub()
        self.dequant = torch.ao.quantization.DeQuantStub()

    def forward(self, x: Any) -> Any:
        x = self.relu(self.bn1(self.conv1(self.quant(x))))
        x = self.bn2(self.conv2(x))
        return self.dequant(self.fc(x.mean((2, 3))))

    def fuse_model(self, is_qat: bool | None = None) -> None:
        fuse = torch.ao.quantization.fuse_modules_qat if is_qat else torch.ao.quantization.fuse_modules
        fuse(self, [["conv1", "bn1", "relu"], ["conv2", "bn2"]], inplace=True)


@dataclass(frozen=True)
class Small(Network):
    name: str = "Small"

    def float_model(self) -> nn.Module:
        return Net()

    def quantizable(self, **options: Any) -> nn.Module:
        model = QuantizableNet()
        if options:
            quantize_model(model, options["backend"])
        return model


SMALL = Settings(
    network=Small(), image_size=24, train_images=64, calibration_images=32, batch_size=16, steps=12, learning_rate=2e-2
)


@dataclass(frozen=True)
class Ran:
    results: list[Measured]
    text: str
    file: Path
    told: list[tuple[float, str, str]]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Everything that the demo does, on the small network."""
    told: list[tuple[float, str, str]] = []

    def tell(share: float, text: str, detail: str = "") -> None:
        told.append((share, text, detail))

    file = demo_data.output_file(tmp_path_factory.mktemp("demo") / "new")
    out = StringIO()
    results = demo.run(file, Console(file=out, width=100), lambda: nullcontext(tell), SMALL)
    return Ran(results, out.getvalue(), file, told)


def forms_here() -> list[str]:
    return [form.name for form in FORMS if form.engine in torch.backends.quantized.supported_engines]


def test_every_form_is_filled_like_the_reference(ran: Ran) -> None:
    assert [result.form.name for result in ran.results] == forms_here()
    for result in ran.results:
        assert result.differing == 0, result.form.name
        assert result.error == result.reference_error, result.form.name
        assert result.mapping.proof.ok, str(result.mapping.proof)
        assert not result.mapping.missing
        assert not result.mapping.mismatched


def test_float_forms_compute_the_source(ran: Ran) -> None:
    assert all(result.error < 1e-5 for result in ran.results if not result.form.int8)
    assert all(10 < result.error < 80 for result in ran.results if result.form.int8)  # dB


def test_load_state_dict_fails_as_in_the_users_report(ran: Ran) -> None:
    today = {result.form.name: result.today for result in ran.results}
    assert today["quantizable"] == "all 14 keys match"
    assert today["fused for eval"] == "RuntimeError: 3 keys missing, 11 unexpected"
    assert {today[name] for name in today if name.startswith("int8")} <= {"KeyError: 'conv1.bias'"}


def test_the_text_shows_what_was_measured(ran: Ran) -> None:
    for result in ran.results:
        statuses = list(result.mapping.knowledge.statuses.values())
        made = len(result.mapping) - len(result.mapping.renames)
        row = [len(statuses), len(result.mapping.renames), made, statuses.count(Status.CALIBRATED)]
        assert re.search(rf"^{re.escape(result.form.name)} +{' +'.join(map(str, row))} .* ok *$", ran.text, re.MULTILINE)
        assert f"{result.agreeing} of " in ran.text
    assert str(ran.file) in ran.text.replace("\n", "")
    assert USER_CODE in ran.text
    assert "not ok" not in ran.text


def test_it_fits_100_columns(ran: Ran) -> None:
    assert [line for line in ran.text.splitlines() if len(line) > 100 and str(ran.file) not in line] == []
    assert "…" not in ran.text


def test_it_is_plain_text_where_it_is_not_a_terminal(ran: Ran) -> None:
    assert "\x1b" not in ran.text


def test_float_file_holds_the_source(ran: Ran) -> None:
    assert torch.load(ran.file, weights_only=True).keys() == Net().state_dict().keys()


def test_progress_says_every_step_and_form(ran: Ran) -> None:
    assert sum(text.startswith("fine-tuning") for _, text, _ in ran.told) == SMALL.steps
    assert [text.partition(": ")[2] for _, text, _ in ran.told if text.startswith("loading")] == forms_here()
    assert all(0 <= share <= 1 for share, _, _ in ran.told)


def test_nothing_global_changes(tmp_path: Path) -> None:
    generator, engine, filters = torch.get_rng_state(), torch.backends.quantized.engine, list(warnings.filters)
    threads = torch.get_num_threads()
    settings = Settings(network=Small(), image_size=16, train_images=16, calibration_images=8, batch_size=8, steps=1)
    demo.run(tmp_path / "float.pth", Console(file=StringIO()), lambda: nullcontext(silent), settings)
    assert torch.equal(torch.get_rng_state(), generator)
    assert torch.backends.quantized.engine == engine
    assert torch.get_num_threads() == threads
    assert warnings.filters == filters


def test_a_missing_engine_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        demo, "FORMS", (FORMS[0], forms.Form("int8 elsewhere", forms.convert, int8=True, engine="elsewhere"))
    )
    out = StringIO()
    results = demo.run(tmp_path / "float.pth", Console(file=out, width=100), lambda: nullcontext(silent), SMALL)
    assert [result.form.name for result in results] == ["quantizable"]
    assert "left out: int8 elsewhere" in out.getvalue()


def test_fine_tuning_learns_and_repeats() -> None:
    with demo_data.isolated(0):
        data = demo_data.load_digits(SMALL)
    states = []
    for _ in range(2):
        with demo_data.isolated(1):
            model = SMALL.network.float_model()
            demo_data.fine_tune(model, data, SMALL)
            states.append(model.state_dict())
    assert measure.count_differing(*states) == 0
    assert not model.training
    assert {norm.momentum for norm in model.modules() if isinstance(norm, nn.BatchNorm2d)} == {0.1}
    right = measure.logits(model, data.held_out_images).argmax(1) == data.held_out_labels
    assert right.float().mean() > 0.8


def test_digits_are_two_balanced_classes_and_no_image_is_used_twice() -> None:
    with demo_data.isolated(0):
        data = demo_data.load_digits(SMALL)
    assert data.images.shape == (64, 3, 24, 24)
    assert data.images.min() >= -1
    assert data.images.max() <= 1
    assert len(data.labels) + len(data.held_out_labels) == 357
    assert 0.4 < data.held_out_labels.float().mean() < 0.6


@pytest.mark.parametrize(
    ("one", "other", "count"),
    [
        ({"a": torch.ones(2)}, {"a": torch.ones(2)}, 0),
        ({"a": torch.ones(2)}, {"a": torch.ones(3)}, 1),
        ({"a": torch.ones(2)}, {"a": torch.ones(2).double()}, 1),
        ({"a": torch.ones(2)}, {"a": torch.ones(2) + 1e-6}, 1),
        ({"a": torch.ones(2)}, {"b": torch.ones(2)}, 2),
        ({"a": None}, {"a": None}, 0),
        ({"a": None}, {"a": torch.ones(1)}, 1),
        ({"a": torch.qint8}, {"a": torch.qint8}, 0),
        ({"a": (torch.ones(1), None)}, {"a": (torch.ones(1), None)}, 0),
        ({"a": (torch.ones(1), torch.ones(1))}, {"a": (torch.ones(1), None)}, 1),
    ],
)
def test_count_differing(one: dict[str, Any], other: dict[str, Any], count: int) -> None:
    assert measure.count_differing(one, other) == count


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_quantized_values_differ_by_their_scale_too() -> None:
    one, same = (torch.quantize_per_tensor(torch.ones(2), 0.5, 0, torch.qint8) for _ in range(2))
    scaled = torch.quantize_per_tensor(torch.full((2,), 0.5), 0.25, 0, torch.qint8)
    assert torch.equal(one.int_repr(), scaled.int_repr())
    assert measure.count_differing({"a": one}, {"a": same}) == 0
    assert measure.count_differing({"a": one}, {"a": scaled}) == 1


def test_output_file(tmp_path: Path) -> None:
    file = demo_data.output_file(tmp_path / "a" / "b")
    assert file == tmp_path / "a" / "b" / "float.pth"
    file.write_text("mine")
    with pytest.raises(FileExistsError, match="--force"):
        demo_data.output_file(file.parent)
    assert demo_data.output_file(file.parent, force=True) == file
    assert file.read_text() == "mine"


def test_the_default_output_is_a_new_temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert demo_data.output_file(None).parent.parent == tmp_path


def test_user_code_is_ten_lines_that_fit() -> None:
    lines = USER_CODE.splitlines()
    assert len(lines) == 10
    assert max(map(len, lines)) <= 100


@pytest.mark.slow
def test_the_whole_demo_and_the_code_that_it_shows(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fxmap", "demo", "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "KeyError: 'Conv2d_1a_3x3.conv.bias'" in done.stdout
    assert done.stdout.count("bit-equal") == len(forms_here())
    assert "Warning" not in done.stderr
    accuracy = re.search(r"held-out digits \(([\d.]+)%\)", done.stdout)
    assert accuracy is not None
    assert float(accuracy[1]) > 90
    names: dict[str, Any] = {"images": [torch.rand(8, 3, 80, 80)]}
    with measure.quantized_engine("fbgemm"):
        exec(USER_CODE.replace("float.pth", str(tmp_path / "float.pth")), names)
    assert isinstance(names["mapping"], fxmap.KeyMapping)
    assert names["mapping"].proof.ok
