"""Export one model, map the file back into the model, and judge every key by what it holds and what the model computes."""

import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fxmap
from benchmarks.sources.models import Subject, subjects
from fxmap.sources.opened import opened
from fxmap.testing.planted import randomised

# Relative to the largest output; files hold single precision.
_CLOSE = 1e-3


@dataclass
class Row:
    """What came of one model and one exporter; `floor` are the keys that equal names and shapes in the file would fill."""

    model: str
    exporter: str
    keys: int = 0
    mapped: int = 0
    right: int = 0
    floor: int = 0
    equal: bool = False
    proven: bool = False
    seconds: float = 0.0
    export_seconds: float = 0.0
    failure: str = ""
    reason: str = ""


def measured(task: tuple[str, str]) -> Iterator[dict[str, Any]]:
    """Yield the row of one model, by its name, and one exporter."""
    name, exporter = task
    subject = next(one for one in subjects(name) if one.name == name)
    warnings.simplefilter("ignore")
    yield asdict(_row(subject, exporter))


def _row(subject: Subject, exporter: str) -> Row:
    torch.manual_seed(0)
    row, inputs = Row(subject.name, exporter), subject.inputs()
    src, dst = (_drawn(subject.build(), seed).eval() for seed in (1, 2))
    row.keys = sum(value.is_floating_point() for value in src.state_dict().values())
    with tempfile.TemporaryDirectory() as folder:
        try:
            start = time.perf_counter()
            path = EXPORTERS[exporter](src, inputs, Path(folder))
            row.export_seconds = time.perf_counter() - start
        except Exception as error:  # of the exporter, which is told as such
            row.failure = f"no export: {type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
            return row
        try:
            start = time.perf_counter()
            mapping = fxmap.auto_map(path, dst, example_inputs=inputs if exporter == "ts" else None, allow_code=True)
            row.seconds = time.perf_counter() - start
            _judge(row, mapping, src, dst, inputs, path)
        except Exception as error:  # a result of the benchmark
            row.failure = f"{type(error).__name__}: {str(error)[:300]}"
    return row


def _drawn(model: nn.Module, seed: int) -> nn.Module:
    """Give a model random weights; tables of integers stay, by which code reads weights: exporters fold what they read."""
    tables = {key: value.clone() for key, value in model.state_dict().items() if not value.is_floating_point()}
    randomised(model, seed).load_state_dict(tables, strict=False)
    return model


def _judge(
    row: Row, mapping: fxmap.KeyMapping, src: nn.Module, dst: nn.Module, inputs: tuple[Tensor, ...], path: Path
) -> None:
    carried = opened(path, allow_code=True)
    assert carried is not None
    held, truth = carried.model.state_dict(), src.state_dict()
    made = mapping.apply(held)
    floats = [key for key, value in truth.items() if value.is_floating_point()]
    row.mapped, row.proven = sum(key in made for key in floats), mapping.proof.ok
    row.reason = "" if mapping.proof.ok else f"{mapping.proof.reason} {mapping.proof.divergence or ''}"[:300]
    row.floor = sum(key in held and _same(held[key], truth[key]) for key in floats)
    filled = dst.state_dict()  # its metadata, which some models ask for, would be lost in a new dict
    filled.update({key: value.to(truth[key]) for key, value in made.items()})
    dst.load_state_dict(filled)
    # The destination had other values: a key that is read and was not filled shows in its outputs. What is not read, such
    # as the token of masks, may be in no file; where the exporter has folded norms, other values compute the same.
    row.equal = _equal_outputs(src, dst, inputs)
    right = sum(key in made and _same(made[key], truth[key]) for key in floats)
    row.right = row.mapped if row.equal else right


def _same(one: Any, other: Tensor) -> bool:
    return (
        isinstance(one, Tensor) and one.shape == other.shape and torch.allclose(one.to(other), other, rtol=1e-4, atol=1e-6)
    )


def _equal_outputs(src: nn.Module, dst: nn.Module, inputs: tuple[Tensor, ...]) -> bool:
    others = [value if not value.is_floating_point() else torch.randn_like(value) for value in inputs]
    with torch.no_grad():
        for given in (inputs, others):
            one, other = src(*given), dst(*given)
            if not float((one - other).abs().max()) <= _CLOSE * float(one.abs().max()):
                return False
    return True


def _onnx(dynamo: bool) -> Callable[[nn.Module, tuple[Tensor, ...], Path], Path]:
    def export(model: nn.Module, inputs: tuple[Tensor, ...], folder: Path) -> Path:
        path = folder / "model.onnx"
        options: Mapping[str, Any] = {"verbose": False} if dynamo else {}
        with torch.no_grad():
            torch.onnx.export(model, inputs, str(path), dynamo=dynamo, **options)
        return path

    return export


def _program(model: nn.Module, inputs: tuple[Tensor, ...], folder: Path) -> Path:
    torch.export.save(torch.export.export(model, inputs), folder / "model.pt2")
    return folder / "model.pt2"


def _script(model: nn.Module, inputs: tuple[Tensor, ...], folder: Path) -> Path:
    torch.jit.save(torch.jit.trace(model, inputs), str(folder / "model.ts"))  # type: ignore[no-untyped-call]
    return folder / "model.ts"


EXPORTERS: dict[str, Callable[[nn.Module, tuple[Tensor, ...], Path], Path]] = {
    "onnx-dynamo": _onnx(True),
    "onnx-ts": _onnx(False),
    "pt2": _program,
    "ts": _script,
}
