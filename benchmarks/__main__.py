"""The command line of the benchmarks: one subcommand a module."""

import typer

from benchmarks import calibration, compare, forms, names, pairs, proof, speed
from benchmarks.accuracy import command as accuracy

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Measurements of fxmap.")
app.command("accuracy")(accuracy.command)
app.command("forms")(forms.command)
app.command("pairs")(pairs.command)
app.command("calibration")(calibration.command)
app.command("names")(names.command)
app.command("proof")(proof.command)
app.command("compare")(compare.command)
app.command("speed")(speed.command)


if __name__ == "__main__":
    app(prog_name="python -m benchmarks")
