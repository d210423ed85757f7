"""The command line: `fxmap`, and the same as `python -m fxmap`.

Exit status: 0 done; 1 interrupted; 2 the command line itself, or a missing package; 3 an error that fxmap explains.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from fxmap.errors import FxmapError

# For a pipe, which has no width of its own.
PIPE_WIDTH = 100

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def fxmap() -> None:
    """Load a checkpoint into a model that computes the same network and names it differently."""


@app.command()
def demo(
    output: Annotated[
        Path | None,
        typer.Option(metavar="DIR", file_okay=False, help="Where float.pth goes.", show_default="a new temporary directory"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a float.pth that is there already.")] = False,
) -> None:
    """Fine-tune a float Inception-v3 and load it into every eager quantized form of itself (under two minutes)."""
    from fxmap import demo as demonstration

    try:
        demonstration.require_digits()
        file = demonstration.output_file(output, force)
    except ModuleNotFoundError:
        raise _failure("the demo needs scikit-learn: pip install 'fxmap[demo]'", 2) from None
    except OSError as error:
        raise typer.BadParameter(str(error), param_hint="--output") from None
    demonstration.run(file, console(), progress)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exits with a status."""
    try:
        app(args=None if arguments is None else list(arguments), prog_name="fxmap")
    except FxmapError as error:
        raise _failure(str(error), 3) from None


def _failure(text: str, status: int) -> SystemExit:
    """Say an error on one line of stderr."""
    print(f"fxmap: error: {' '.join(text.split())}", file=sys.stderr)
    return SystemExit(status)


def console() -> Console:
    """Return the console of stdout; as wide as the terminal, or fit for a file where it is piped."""
    piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(width=PIPE_WIDTH if piped else None, highlight=False, markup=False, emoji=False)


@contextmanager
def progress() -> Iterator[Callable[..., None]]:
    """Show progress on stderr: a bar on a terminal, else one line for each thing that is begun."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[detail]}"), TimeElapsedColumn())
    # Results go to stdout, which may be a file: it must not be redirected into the bar.
    bar = Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False)
    with bar:
        task = bar.add_task("", total=1.0, detail="")
        yield lambda share, text, detail="": bar.update(task, completed=share, description=text, detail=detail)


class _Lines:
    """Prints a line for each new text, and of one that goes on in small steps a line for each quarter."""

    def __init__(self) -> None:
        self.text = ""
        self.quarter = -1

    def __call__(self, share: float, text: str, detail: str = "") -> None:
        quarter = int(share * 4)
        if text != self.text or quarter != self.quarter:
            print(f"{text}: {detail}" if detail else text, file=sys.stderr, flush=True)
        self.text, self.quarter = text, quarter
