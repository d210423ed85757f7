"""What the commands of the benchmarks share: progress on a terminal, and JSON files."""

import json
import math
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

T = TypeVar("T")

_PACKAGES = ("torch", "torchvision", "timm", "transformers", "pytorchcv")


def progress(results: Iterable[T], total: int, name: Callable[[T], str]) -> Iterator[T]:
    """Yield results as they come, and show the last one's name and how many there are, on a terminal only."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description:60}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        bar = shown.add_task("", total=total)
        for result in results:
            shown.update(bar, description=name(result), advance=1)
            yield result


def write_json(path: Path, benchmark: str, rows: list[dict[str, Any]], seconds: float, **more: Any) -> None:
    """Write rows and what they depend on; the file is there whole, or not at all."""
    data = {"benchmark": benchmark, "versions": versions(), "seconds": seconds, "rows": rows} | more
    write_text(path, json.dumps(plain(data), indent=1, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file whole, or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def plain(value: Any) -> Any:
    """Write what is no number in JSON (an infinite error) as a string.

    >>> plain({"error": float("inf")})
    {'error': 'inf'}
    """
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [plain(part) for part in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def versions(packages: Sequence[str] = _PACKAGES) -> dict[str, Any]:
    """Return the versions that the numbers depend on."""
    found: dict[str, Any] = {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found | {"threads": torch.get_num_threads()}
