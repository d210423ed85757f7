"""The commands that stream: convert into a folder, and verify of files; with progress, and the time that is left."""

import re
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from fxmap.api.comparison import verify_files as compare_files
from fxmap.api.conversion import convert
from fxmap.api.verdict import Verify
from fxmap.cli.commands import Outcome, example, outcome_of, read_mapping
from fxmap.cli.references import UsageError, on_meta
from fxmap.errors import ProofWarning
from fxmap.files.reading import existing
from fxmap.streaming.folder import said

_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def size_of(text: str) -> int:
    """Parse a size, with a unit or in bytes.

    Raises:
        UsageError: it is none.

    >>> size_of("5GB"), size_of("1.5 MiB"), size_of("4096")
    (5000000000, 1572864, 4096)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text, re.IGNORECASE)
    unit = (found[2].upper() or "B") if found else ""
    size = int(float(found[1]) * _UNITS[unit]) if found and unit in _UNITS else 0
    if size < 1:
        raise UsageError(f"--shard-size {text}: a size is a number and a unit, as in 500MB, 5GB or 2GiB")
    return size


def dtype_of(text: str | None) -> torch.dtype | None:
    """Parse the name of a dtype of floating point.

    Raises:
        UsageError: torch has no such dtype.
    """
    found = None if text is None else getattr(torch, text.removeprefix("torch."), None)
    if text is not None and not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise UsageError(f"--dtype {text}: no floating-point dtype of torch; choose float32, float16 or bfloat16")
    return found


@dataclass
class _Clock:
    """Turns bytes into lines of progress: the share, and the time that is left at the rate so far."""

    report: Callable[..., None]
    start: float = field(default_factory=time.monotonic)
    first: int | None = None

    def __call__(self, done: int, total: int, what: str) -> None:
        # Shards of an earlier run, and the time of the mapping, say nothing about the rate.
        if self.first is None or "finished before" in what:
            self.first, self.start = done, time.monotonic()
        rate = (done - self.first) / max(time.monotonic() - self.start, 1e-9)
        left = f"{(total - done) / rate:.0f} s left" if rate and done < total else ""
        detail = ", ".join(filter(None, (f"{said(done)} of {said(total)}", left)))
        self.report(done / max(total, 1), what, detail)


def verify_files(source: str, checkpoint: str, mapping: Path, report: Callable[..., None]) -> Outcome:
    """Check that a checkpoint holds what the mapping of a JSON file makes of another one."""
    found = compare_files(source, checkpoint, read_mapping(mapping), progress=_Clock(report))
    data = {
        "ok": found.ok,
        "keys": found.keys,
        "differences": [asdict(one) | {"text": str(one)} for one in found.differences],
        "converted": found.converted,
        "others": found.others,
    }
    return Outcome(str(found), data, found.ok)


@dataclass(frozen=True)
class Conversion:
    """One run of `fxmap convert` into a folder."""

    checkpoint: str
    src: str | None
    dst: str
    output: Path
    keep: bool
    force: bool
    weights: str | None
    inputs: str | None
    strict: bool
    verify: Verify
    shard_size: str
    dtype: str | None
    dcp: bool = False

    def run(self, report: Callable[..., None]) -> Outcome:
        """Map, and write shard by shard; the folder is there when it is whole."""
        existing(Path(self.checkpoint))  # before a model is built
        size, dtype = size_of(self.shard_size), dtype_of(self.dtype)
        dst = on_meta(self.dst)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ProofWarning)  # the report says it
            mapping = convert(
                self.checkpoint,
                self.output,
                dst=dst,
                src=None if self.src is None else on_meta(self.src),
                weights=self.weights,
                strict=self.strict,
                on_mismatch="keep" if self.keep else "raise",
                example_inputs=example(self.inputs),
                verify=self.verify,
                shard_size=size,
                dtype=dtype,
                overwrite=self.force,
                layout="dcp" if self.dcp else "safetensors",
                progress=_Clock(report),
            )
        return outcome_of(mapping, self.checkpoint, self.output, len(dst.state_dict()))
