"""The command line of the benchmarks: one subcommand a module."""

import typer

from benchmarks import forms, proof

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Measurements of fxmap.")
app.command("forms")(forms.command)
app.command("proof")(proof.command)


@app.callback()
def main() -> None:
    """Measure fxmap."""


if __name__ == "__main__":
    app(prog_name="python -m benchmarks")
