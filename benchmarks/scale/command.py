"""`python -m benchmarks scale`: memory of loading and converting, throughput beside cp, ranks, and a proof that streams.

A decoder with joined projections is written, and loaded and converted into one whose projections are apart; for
renames alone, into itself. Every measurement has a process of its own; memory is the peak over what importing takes. The
floor is `cp -r` of the same files, before and after, all of them in the cache of the system as far as they fit. Seconds are
those of all, with building and mapping; the rate of a conversion is that behind its first tensor. The proof is that of
`benchmarks.scale.proof`; its memory is all of the process.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.common.output import progress, write_json
from benchmarks.scale.proof import SIZES
from fxmap.cli.tables import print_table

GB, MB = 1e9, 2**20
TASKS = (
    "load into the meta device",
    "load into memory",
    "cp",
    "convert, renames alone",
    "cp again",
    "convert, joins taken apart",
    "2 ranks",
    "4 ranks",
)


def command(
    gigabytes: Annotated[float, typer.Option(help="Size of the checkpoint.")] = 1.0,
    folder: Annotated[Path | None, typer.Option(help="Where it is written; by default a temporary folder.")] = None,
    four: Annotated[bool, typer.Option(help="Measure 4 ranks as well as 2.")] = True,
    proof: Annotated[str, typer.Option(help=f"Prove a decoder of this size as well: {', '.join(SIZES)}.")] = "",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the rows to a file.")] = None,
) -> None:
    """Measure memory and throughput of loading and converting large checkpoints, and of proving large models."""
    if proof and proof not in SIZES:
        raise typer.BadParameter(f"there are {', '.join(SIZES)}", param_hint="--proof")
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=folder) as place:
        rows = measured(Path(place), sizes_of(gigabytes), [task for task in TASKS if four or task != "4 ranks"])
    _print(rows)
    if proof:
        rows.append({"task": f"prove {proof}"} | _proven(proof))
    if json_file is not None:
        write_json(json_file, "scale", rows, time.perf_counter() - start)


def sizes_of(gigabytes: float) -> dict[str, int]:
    """Return the sizes of a decoder of about so many gigabytes in float32, of 16 layers and two tables.

    >>> sizes_of(1.0)["width"]
    960
    """
    layers, vocabulary = 16, 8192
    width = 64
    while _bytes(width + 64, layers, vocabulary) <= gigabytes * GB:
        width += 64
    heads = width // 64
    return {
        "layers": layers,
        "width": width,
        "heads": heads,
        "groups": heads,
        "hidden": 3 * width,
        "vocabulary": vocabulary,
    }


def _bytes(width: int, layers: int, vocabulary: int) -> int:
    return 4 * (layers * (4 + 9) * width * width + 2 * vocabulary * width)


def measured(folder: Path, sizes: dict[str, int], tasks: list[str]) -> list[dict[str, Any]]:
    """Run the tasks, each in a process of its own, and return a row for each."""
    _run("write", folder, sizes)
    size = sum(path.stat().st_size for path in (folder / "plain").iterdir())
    rows = []
    for task, found in progress(((task, _run(task, folder, sizes)) for task in tasks), len(tasks), lambda done: done[0]):
        rows.append({"task": task, "model_mb": size / MB} | found)
    return rows


def _run(task: str, folder: Path, sizes: dict[str, int]) -> dict[str, Any]:
    for made in folder.glob("out-*"):
        shutil.rmtree(made)
    if task.startswith("cp"):
        start = time.perf_counter()
        subprocess.run(["cp", "-r", str(folder / "plain"), str(folder / "out-cp")], check=True)
        return {"seconds": time.perf_counter() - start}
    arguments = [sys.executable, "-m", "benchmarks.scale.measure", task, str(folder), json.dumps(sizes)]
    done = subprocess.run(arguments, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _proven(size: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scale.proof", size], check=True, stdout=subprocess.PIPE, text=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    Console().print(
        f"a decoder of {found['numbers'] / 1e9:.1f} billion numbers: {'proven' if found['ok'] else found['reason']}, "
        f"{found['passes']} passes, {found['seconds']:.0f} s ({found['processor_seconds']:.0f} s of the processor), peak "
        f"{found['peak_mb']:.0f} MiB, of which importing takes {found['imported_mb']:.0f}"
    )
    return found


def _print(rows: list[dict[str, Any]]) -> None:
    table = Table(
        title=f"a checkpoint of {rows[0]['model_mb']:.0f} MiB; memory is over what importing takes", title_justify="left"
    )
    for name in ("", "seconds", "MB/s", "of cp", "peak, MiB", "beside the model, MiB"):
        table.add_column(name, justify="left" if not name else "right")
    copied = [row["seconds"] for row in rows if row["task"].startswith("cp")]
    floor = sum(copied) / len(copied) if copied else 0.0
    for row in rows:
        each = row.get("ranks", [row])
        seconds, size = max(one["seconds"] for one in each), row["model_mb"]
        peak = max((one["peak_mb"] for one in each if "peak_mb" in one), default=None)
        held = max((one["held_mb"] for one in each if "held_mb" in one), default=size)
        beside = "" if peak is None else f"{peak - (0 if row['task'].startswith('convert') else held):.0f}"
        rate = row.get("bytes_a_second", size * MB / seconds)
        share = f"{rate * floor / (size * MB):.0%}" if "bytes_a_second" in row and floor else ""
        table.add_row(
            row["task"], f"{seconds:.1f}", f"{rate / 1e6:.0f}", share, "" if peak is None else f"{peak:.0f}", beside
        )
    print_table(Console(), table)
