"""The command line of the benchmarks: one subcommand a package."""

import typer

from benchmarks.accuracy import command as accuracy
from benchmarks.calibration import command as calibration
from benchmarks.compare import command as compare
from benchmarks.faults import command as faults
from benchmarks.forms import command as forms
from benchmarks.names import command as names
from benchmarks.pairs import command as pairs
from benchmarks.plots import command as plots
from benchmarks.proof import command as proof
from benchmarks.scale import command as scale
from benchmarks.sources import command as sources
from benchmarks.speed import command as speed
from benchmarks.unseen import command as unseen

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Measurements of fxmap.")
app.command("accuracy")(accuracy.command)
app.command("faults")(faults.command)
app.command("forms")(forms.command)
app.command("pairs")(pairs.command)
app.command("calibration")(calibration.command)
app.command("names")(names.command)
app.command("proof")(proof.command)
app.command("compare")(compare.command)
app.command("speed")(speed.command)
app.command("scale")(scale.command)
app.command("plots")(plots.command)
app.command("sources")(sources.command)
app.command("unseen")(unseen.command)


if __name__ == "__main__":
    app(prog_name="python -m benchmarks")
