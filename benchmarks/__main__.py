"""The command line of the benchmarks: one subcommand a module."""

import typer

from benchmarks import forms, names

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Measurements of fxmap.")
app.command("forms")(forms.command)
app.command("names")(names.command)


@app.callback()
def main() -> None:
    """Measure fxmap."""
    # A callback keeps the name of the subcommand necessary while there is only one.


if __name__ == "__main__":
    app(prog_name="python -m benchmarks")
