"""The command line: `fxmap`, and the same as `python -m fxmap`.

Exit status: 0 done, and for a mapping: proven; 1 mapped but not proven, incomplete, or different; 2 the command line itself,
or a missing package; 3 an input that is refused or broken, or a model whose code raised or exited; 4 the result could not be
written; 5 a fault of fxmap, with its traceback; 130 interrupted. With --json there is one JSON document on stdout, also for
an error: {"error": ..., "status": ...}.
What models print goes to stderr.
"""

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fxmap import __version__
from fxmap.api.verdict import Verify
from fxmap.cli import commands, differences, streaming
from fxmap.cli.advice import as_options
from fxmap.cli.options import (
    AbsorbEps,
    AllowCode,
    AsJson,
    Calibration,
    Dst,
    DstOption,
    Dtype,
    Inputs,
    Into,
    Output,
    ShardSize,
    Src,
    SrcOption,
    Strict,
    Weights,
)
from fxmap.cli.output import (
    OutputError,
    as_json,
    escaped,
    folded,
    one_line,
    prints_to_stderr,
    tell,
    with_names_escaped,
    write,
)
from fxmap.cli.progress import Report, progress, shown
from fxmap.cli.references import FactoryError, UsageError
from fxmap.cli.statuses import Exit
from fxmap.errors import DifferentNetworks, FxmapError, InternalError, LoadError, ProofError
from fxmap.model.faults import is_fault, place_of_user, words
from fxmap.streaming.output import is_folder
from fxmap.trace import progress as stages

# For a pipe, which has no width of its own.
PIPE_WIDTH = 100


app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
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
    """Load a fine-tuned Inception-v3 into its quantized forms.

    A float Inception-v3 is fine-tuned on real digits, and loaded into every eager quantized form of itself, in under two
    minutes.
    """
    from fxmap.cli.demo import data
    from fxmap.cli.demo import run as demonstration

    try:
        data.require_digits()
        file = data.output_file(output, force)
    except ModuleNotFoundError:
        raise _failure("the demo needs scikit-learn: pip install 'fxmap[demo]'", Exit.USAGE) from None
    except OSError as error:
        raise typer.BadParameter(str(error), param_hint="--output") from None
    demonstration.run(file, console(), progress)


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
    absorb_eps: AbsorbEps = False,
    allow_code: AllowCode = False,
) -> None:
    """Find how every key of DST is made from keys of SRC, and prove it.

    Exit status: 0 proven; 1 not proven or not complete; 2 wrong use; 3 refused input.
    """
    _finish(
        _working(lambda _: commands.map_models(src, dst, weights, inputs, all_keys, html, absorb_eps, allow_code)), as_json
    )


@app.command()
def convert(
    checkpoint: Annotated[
        str, typer.Argument(metavar="CHECKPOINT", help="The checkpoint of the source: a file, or a folder of shards.")
    ],
    dst: DstOption,
    output: Output,
    src: SrcOption = None,
    calibration: Calibration = None,
    keep: Annotated[bool, typer.Option("--keep", help="Let DST keep its own values where the source has none.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output.")] = False,
    as_json: AsJson = False,
    weights: Weights = None,
    inputs: Inputs = None,
    into: Into = None,
    strict: Strict = True,
    unproven: Annotated[bool, typer.Option("--unproven", help="Write also what running both models has refuted.")] = False,
    prove: Annotated[bool, typer.Option("--proof/--no-proof", help="Run both models, which takes their memory.")] = True,
    shard_size: ShardSize = "5GB",
    dtype: Dtype = None,
    dcp: Annotated[bool, typer.Option("--dcp", help="Write the folder for torch.distributed.checkpoint.")] = False,
    absorb_eps: AbsorbEps = False,
    allow_code: AllowCode = False,
) -> None:
    """Write a checkpoint of DST with the weights of CHECKPOINT.

    An output folder is written tensor by tensor, with models that take no memory; after an interruption the same command
    goes on where it ended.

    Exit status: 0 proven; 1 written but not proven, or incomplete and not written; 2 wrong use; 3 refused input.
    """
    verify: Verify = ("warn" if unproven else True) if prove else False
    if not is_folder(output):
        if dcp:
            raise UsageError("--dcp writes a folder: give --output a name without a suffix")
        job = commands.Conversion(
            checkpoint,
            src,
            dst,
            output,
            calibration,
            keep,
            force,
            weights,
            inputs,
            into,
            strict,
            verify,
            absorb_eps,
            allow_code,
        )
        _finish(_working(lambda _: job.run()), as_json)
        return
    if calibration is not None or into is not None or absorb_eps:
        raise UsageError(
            "--calibration, --into and --absorb-eps need an output file (.safetensors, .pt, .pth), not a folder"
        )
    stream = streaming.Conversion(
        checkpoint, src, dst, output, keep, force, weights, inputs, strict, verify, shard_size, dtype, dcp
    )
    _finish(_working(stream.run), as_json)


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
    allow_code: AllowCode = False,
) -> None:
    """Prove a mapping by running both models; with --files, check that a file holds what it makes of another one.

    Exit status: 0 proven, or equal; 1 not proven, or a key differs; 2 wrong use; 3 refused input.
    """
    if files and inputs is not None:
        raise UsageError("--inputs is for models; with --files nothing is run")
    if files:
        outcome = _working(lambda report: streaming.verify_files(src, dst, mapping, report))
    else:
        outcome = _working(lambda _: commands.verify_file(src, dst, mapping, inputs, allow_code))
    _finish(outcome, as_json)


@app.command()
def explain(
    src: Src,
    dst: Dst,
    key: Annotated[str, typer.Argument(metavar="KEY", help="A key of the destination.")],
    as_json: AsJson = False,
    weights: Weights = None,
    inputs: Inputs = None,
    allow_code: AllowCode = False,
) -> None:
    """Show how one key of DST is made, its status, and the reason.

    The stages that found it are listed with their seconds.

    Exit status: 0 the key is proven, tied or without effect; 1 it is not; 2 wrong use; 3 refused input.
    """
    _finish(_working(lambda _: commands.explain(src, dst, key, weights, inputs, allow_code)), as_json)


@app.command()
def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="A checkpoint, or a model, whose values are then not compared.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
    as_json: AsJson = False,
    tolerance: Annotated[
        float, typer.Option(min=0, metavar="NUMBER", help="How far values may differ, relative to the largest of a tensor.")
    ] = 0.0,
    all_keys: Annotated[bool, typer.Option("--all", help="Print every key, not a line for all layers.")] = False,
) -> None:
    """Compare two checkpoints by keys, shapes, dtypes and values.

    Wrappers such as module. are no difference.

    Exit status: 0 equal; 1 different; 2 wrong use; 3 refused input.
    """
    _finish(_working(lambda report: differences.diff(a, b, tolerance, all_keys, report)), as_json)


class Interrupted(Exception):
    """The user interrupted a command; an exception that typer passes on, as it does not a KeyboardInterrupt."""


def _working(work: Callable[[Report], commands.Outcome]) -> commands.Outcome:
    """Run a command with its progress on stderr; whatever models print goes there, too.

    Raises:
        FactoryError: code of a model called sys.exit, which says nothing about a mapping.
        FxmapError: the system refused something, such as a place on the disk.
        Interrupted: the user interrupted it.
    """
    try:
        with progress() as report, stages(shown(report)), prints_to_stderr():
            return work(report)
    except KeyboardInterrupt as error:
        raise Interrupted from error
    except SystemExit as error:
        raise FactoryError(f"code of a model called sys.exit({error.code!r}): nothing is known of its mapping") from error
    except OSError as error:
        raise FxmapError(f"the system refused it: {error}") from error
    except Exception as error:
        if isinstance(error, FxmapError) or hasattr(error, "format_message") or is_fault(error):
            raise
        # Where nothing else answered: a state_dict, an attribute.
        raise FactoryError(f"code of a model raised {words(error)}{place_of_user(error)}") from error
    except BaseException as error:  # what no code catches, but for what it means: a GeneratorExit, or a kind of the user's
        raise FactoryError(f"code of a model raised {words(error)}: nothing is known of its mapping") from error


def _finish(outcome: commands.Outcome, json_wanted: bool) -> None:
    if json_wanted:
        write(as_json(outcome.data))
    else:
        write(folded(with_names_escaped(as_options(outcome.text), outcome.data)))
    if not outcome.ok:
        raise typer.Exit(Exit.UNPROVEN)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exits with a status."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    json_wanted = "--json" in words
    try:
        # Without JSON, errors of the command line itself are shown by typer.
        status = app(args=words, prog_name="fxmap", standalone_mode=not json_wanted)
    except UsageError as error:
        raise _failure(str(error), Exit.USAGE, json_wanted) from None
    except (LoadError, DifferentNetworks, ProofError) as error:
        raise _failure(str(error), Exit.UNPROVEN, json_wanted) from None
    except InternalError as error:
        raise _fault(error, json_wanted) from None
    except FxmapError as error:
        raise _failure(str(error), Exit.REFUSED, json_wanted) from None
    except (OutputError, OSError) as error:
        raise _failure(str(error), Exit.UNWRITTEN) from None
    except (KeyboardInterrupt, Interrupted):
        raise _failure("interrupted", Exit.INTERRUPTED, json_wanted) from None
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise _fault(error, json_wanted) from None
        raise _failure(error.format_message(), Exit.USAGE, json_wanted) from None
    raise SystemExit(status if isinstance(status, int) else Exit.DONE)


def _fault(error: Exception, json_wanted: bool) -> SystemExit:
    """Print a bug of fxmap with its traceback, for a report of it; return the exit."""
    for line in traceback.format_exception(error.__cause__ or error):
        tell(escaped(line.rstrip("\n")))
    own = isinstance(error, InternalError)
    text = str(error) if own else f"a fault of fxmap, not of yours: {words(error)}. Please report it with this traceback"
    return _failure(text, Exit.FAULT, json_wanted)


def _failure(text: str, status: int, json_wanted: bool = False) -> SystemExit:
    """Print an error on one line of stderr, and as JSON on stdout where that is wanted; return the exit."""
    text = as_options(text)
    tell(f"fxmap: error: {one_line(text)}")
    if json_wanted:
        with suppress(OutputError):
            write(as_json({"error": text, "status": status}))
    return SystemExit(status)


def console() -> Console:
    """Return the console of stdout: as wide as the terminal, or of a fixed width where it is piped."""
    piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(width=PIPE_WIDTH if piped else None, highlight=False, markup=False, emoji=False)
