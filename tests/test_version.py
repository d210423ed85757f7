"""The version, as Python and the command line say it."""

from importlib.metadata import version

import pytest

import fxmap
from fxmap.cli.app import main


def test_the_version_is_that_of_the_installed_package() -> None:
    assert fxmap.__version__ == version("fxmap")
    assert "__version__" in fxmap.__all__


def test_the_command_line_prints_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"fxmap {fxmap.__version__}\n"
