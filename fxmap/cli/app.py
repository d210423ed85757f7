"""The command line: `fxmap`, and the same as `python -m fxmap`.

Exit status: 0 done, and for a mapping: proven; 1 mapped but not proven, incomplete, or different; 2 the command line itself,
or a missing package; 3 an input that is refused or broken, or a model whose code raised or exited; 4 the result could not be
written; 130 interrupted. With --json there is one JSON document on stdout, also for an error: {"error": ..., "status": ...}.
What models print goes to stderr.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from fxmap import __version__
from fxmap.api.verdict import Verify
from fxmap.cli import commands, streaming
from fxmap.cli.entry import INTERRUPTED
from fxmap.cli.output import OutputError, as_json, escaped, one_line, prints_to_stderr, tell, with_names_escaped, write
from fxmap.cli.references import FactoryError, UsageError
from fxmap.errors import DifferentNetworks, FxmapError, LoadError, ProofError

# For a pipe, which has no width of its own.
PIPE_WIDTH = 100


app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]}
)


def _print_version(wanted: bool) -> None:
    if wanted:
        write(f"fxmap {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
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
    from fxmap.cli.demo import data
    from fxmap.cli.demo import run as demonstration

    try:
        data.require_digits()
        file = data.output_file(output, force)
    except ModuleNotFoundError:
        raise _failure("the demo needs scikit-learn: pip install 'fxmap[demo]'", 2) from None
    except OSError as error:
        raise typer.BadParameter(str(error), param_hint="--output") from None
    demonstration.run(file, console(), progress)


_MODELS = (
    "a model, as in torchvision:resnet18(num_classes=5), timm:NAME(arguments), transformers:CONFIG.json, "
    "package.module:factory(arguments)"
)


_CODE = "Arguments are literals; a factory runs its package's code."


Src = Annotated[str, typer.Argument(metavar="SRC", help=f"The source: {_MODELS}, or a checkpoint file. {_CODE}")]


Dst = Annotated[str, typer.Argument(metavar="DST", help="The destination, in the same words.")]


AsJson = Annotated[bool, typer.Option("--json", help="Write JSON to standard output.")]


Weights = Annotated[str | None, typer.Option(help="Which weights of a checkpoint that holds several, such as ema.")]


Inputs = Annotated[
    str | None, typer.Option(metavar="SHAPE", help="Shape of an input, as in 1x3x224x224, where it cannot be inferred.")
]


@app.command("map")
def map_models(
    src: Src,
    dst: Dst,
    as_json: AsJson = False,
    weights: Weights = None,
    inputs: Inputs = None,
    all_keys: Annotated[bool, typer.Option("--all", help="Print every key, not a screen of patterns.")] = False,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", dir_okay=False, help="Write the report as a page, with both graphs.")
    ] = None,
) -> None:
    """Find how every key of DST is made from keys of SRC, and prove it.

    Exit status: 0 proven; 1 not proven or not complete; 2 wrong use; 3 refused input.
    """
    _finish(_working(lambda: commands.map_models(src, dst, weights, inputs, all_keys, html)), as_json)


@app.command()
def convert(
    checkpoint: Annotated[
        str, typer.Argument(metavar="CHECKPOINT", help="The checkpoint of the source: a file, or a folder of shards.")
    ],
    dst: Annotated[str, typer.Option(help=f"The destination: {_MODELS}. {_CODE}")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The file to write: .safetensors, .pt or .pth; any other name: a folder.")
    ],
    src: Annotated[str | None, typer.Option(help="The model of the checkpoint; without it, keys are guessed.")] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(help="Typical inputs for an int8 destination: a file of torch.save with a list of tensors."),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Let DST keep its own values where the source has none.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output.")] = False,
    as_json: AsJson = False,
    weights: Weights = None,
    inputs: Inputs = None,
    into: Annotated[str | None, typer.Option(help="The part of DST that is meant, as in backbone.body.")] = None,
    strict: Annotated[
        bool, typer.Option(help="Refuse a file that holds more of the layers that are read than is read of them.")
    ] = True,
    unproven: Annotated[bool, typer.Option("--unproven", help="Write also what running both models has refuted.")] = False,
    prove: Annotated[bool, typer.Option("--proof/--no-proof", help="Run both models, which takes their memory.")] = True,
    shard_size: Annotated[str, typer.Option(metavar="SIZE", help="Of a file in an output folder, as 500MB.")] = "5GB",
    dtype: Annotated[str | None, typer.Option(help="Of floating-point tensors in an output folder: bfloat16, ...")] = None,
    dcp: Annotated[bool, typer.Option("--dcp", help="Write the folder for torch.distributed.checkpoint.")] = False,
) -> None:
    """Write a checkpoint of DST with the weights of CHECKPOINT.

    An output folder is written tensor by tensor, with models that take no memory; after an interruption the same command
    goes on where it ended.

    Exit status: 0 proven; 1 written but not proven, or incomplete and not written; 2 wrong use; 3 refused input.
    """
    if not commands.is_folder(output):
        if dcp:
            raise UsageError("--dcp writes a folder: give --output a name without a suffix")
        job = commands.Conversion(
            checkpoint, src, dst, output, calibration, keep, force, weights, inputs, into, strict, unproven
        )
        _finish(_working(job.run), as_json)
        return
    if calibration is not None or into is not None:
        raise UsageError("--calibration and --into need an output file (.safetensors, .pt, .pth), not a folder")
    verify: Verify = ("warn" if unproven else True) if prove else False
    stream = streaming.Conversion(
        checkpoint, src, dst, output, keep, force, weights, inputs, strict, verify, shard_size, dtype, dcp
    )
    with progress() as report:
        outcome = _working(lambda: stream.run(report), spin=False)
    _finish(outcome, as_json)


@app.command("verify")
def verify_file(
    src: Src,
    dst: Dst,
    mapping: Annotated[Path, typer.Argument(metavar="MAPPING.json", help="What `fxmap map --json` wrote.")],
    as_json: AsJson = False,
    inputs: Inputs = None,
    files: Annotated[
        bool, typer.Option("--files", help="SRC and DST are checkpoints: compare every value of DST, bit for bit.")
    ] = False,
) -> None:
    """Prove a mapping by running both models; with --files, check that a file holds what it makes of another one.

    Exit status: 0 proven, or equal; 1 not proven, or a key differs; 2 wrong use; 3 refused input.
    """
    if files:
        if inputs is not None:
            raise UsageError("--inputs is for models; with --files nothing is run")
        with progress() as report:
            outcome = _working(lambda: streaming.verify_files(src, dst, mapping, report), spin=False)
        _finish(outcome, as_json)
        return
    _finish(_working(lambda: commands.verify_file(src, dst, mapping, inputs)), as_json)


@app.command()
def explain(
    src: Src,
    dst: Dst,
    key: Annotated[str, typer.Argument(metavar="KEY", help="A key of the destination.")],
    as_json: AsJson = False,
    weights: Weights = None,
    inputs: Inputs = None,
) -> None:
    """Show how one key of DST is made from SRC, its status, the reason for that, and the stages that found it.

    Exit status: 0 the key is proven, tied or without effect; 1 it is not; 2 wrong use; 3 refused input.
    """
    _finish(_working(lambda: commands.explain(src, dst, key, weights, inputs)), as_json)


@app.command()
def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="A checkpoint, or a model.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
    as_json: AsJson = False,
) -> None:
    """Compare two checkpoints by keys, shapes and dtypes, wrappers apart.

    Exit status: 0 equal; 1 different; 2 wrong use; 3 refused input.
    """
    _finish(_working(lambda: commands.diff(a, b)), as_json)


class Interrupted(Exception):
    """The user interrupted a command; an exception that typer passes on, as it does not a KeyboardInterrupt."""


def _working(work: Callable[[], commands.Outcome], *, spin: bool = True) -> commands.Outcome:
    """Run a command with a spinner, which is shown only on a terminal, if at all; whatever models print goes to stderr.

    Raises:
        FactoryError: code of a model called sys.exit, which says nothing about a mapping.
        FxmapError: the system refused something, such as a place on the disk.
        Interrupted: the user interrupted it.
    """
    err = Console(stderr=True)
    spinner = err.status("working") if err.is_terminal and spin else nullcontext()
    try:
        with spinner, prints_to_stderr():
            return work()
    except KeyboardInterrupt as error:
        raise Interrupted from error
    except SystemExit as error:
        raise FactoryError(f"code of a model called sys.exit({error.code!r}): nothing is known of its mapping") from error
    except OSError as error:
        raise FxmapError(f"the system refused it: {error}") from error


def _finish(outcome: commands.Outcome, json_wanted: bool) -> None:
    if json_wanted:
        write(as_json(outcome.data))
    else:
        write(with_names_escaped(outcome.text, outcome.data))
    if not outcome.ok:
        raise typer.Exit(1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exits with a status."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    json_wanted = "--json" in words
    try:
        # Without JSON, errors of the command line itself are shown by typer.
        status = app(args=words, prog_name="fxmap", standalone_mode=not json_wanted)
    except UsageError as error:
        raise _failure(str(error), 2, json_wanted) from None
    except (LoadError, DifferentNetworks, ProofError) as error:
        raise _failure(str(error), 1, json_wanted) from None
    except FxmapError as error:
        raise _failure(str(error), 3, json_wanted) from None
    except (OutputError, OSError) as error:
        raise _failure(str(error), 4) from None
    except (KeyboardInterrupt, Interrupted):
        raise _failure("interrupted", INTERRUPTED, json_wanted) from None
    except Exception as error:
        if not hasattr(error, "format_message"):
            if json_wanted:
                _failure(f"a fault of fxmap: {type(error).__name__}: {error}", 1, json_wanted)
            raise
        raise _failure(error.format_message(), 2, json_wanted) from None
    raise SystemExit(status if isinstance(status, int) else 0)


def _failure(text: str, status: int, json_wanted: bool = False) -> SystemExit:
    """Print an error on one line of stderr, and as JSON on stdout where that is wanted; return the exit."""
    tell(f"fxmap: error: {one_line(text)}")
    if json_wanted:
        with suppress(OutputError):
            write(as_json({"error": text, "status": status}))
    return SystemExit(status)


def console() -> Console:
    """Return the console of stdout: as wide as the terminal, or of a fixed width where it is piped."""
    piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(width=PIPE_WIDTH if piped else None, highlight=False, markup=False, emoji=False)


@contextmanager
def progress() -> Iterator[Callable[..., None]]:
    """Show progress on stderr: a bar on a terminal, else one line for each step."""
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
    """Prints a line for each new step, and one for each further quarter of its progress."""

    def __init__(self) -> None:
        self.text = ""
        self.quarter = -1

    def __call__(self, share: float, text: str, detail: str = "") -> None:
        quarter = int(share * 4)
        if text != self.text or quarter != self.quarter:
            tell(escaped(f"{text}: {detail}" if detail else text))
        self.text, self.quarter = text, quarter
