"""The command line under attack: keys that rule terminals, models that exit or print, outputs that cannot be written."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fxmap.cli import app as cli
from fxmap.cli.output import as_json, escaped, folded, with_names_escaped

LINEAR = "torch.nn:Linear(3, 2)"

MODELS = """
import atexit, os, sys
from torch import nn

class Speaks(nn.Linear):
    def forward(self, x):
        print("forward")
        os.write(1, b"below python")
        return super().forward(x)

def speaks():
    print("building")
    atexit.register(print, "at the exit")
    return Speaks(3, 2)

class Exits(nn.Linear):
    def forward(self, x):
        sys.exit(0)

def exits(): sys.exit(0)
def later(): return Exits(3, 2)
def interrupted(): raise KeyboardInterrupt
def memory(): raise MemoryError("all of it")
def hostile():
    model = nn.Module()
    for name in ("a\\x1b[2J", "b\\nproof: ok", "\\u202egnorw", "c\\x07\\x9b31m"):
        model._parameters[name] = nn.Parameter(__import__("torch").zeros(2))
    return model
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "attackers.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "attackers", raising=False)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    out, err = capsys.readouterr()
    assert isinstance(caught.value.code, int)
    return caught.value.code, out, err


@pytest.mark.parametrize(
    ("model", "status", "words"),
    [
        ("attackers:exits()", 3, "called sys.exit(0)"),
        ("attackers:memory()", 3, "MemoryError: all of it"),
        ("attackers:interrupted()", 130, "interrupted"),
        ("attackers:nothing()", 2, "has no 'nothing'"),
        ("a" * 5000, 3, "no such file"),
        ("a" * 5000 + ":b", 2, "cannot be imported"),
        ("\udcff.pth", 3, "\\udcff.pth: no such file"),
        ("\0:\0", 2, "not understood"),
        ("", 3, "a folder"),
    ],
)
def test_a_model_that_cannot_be_built_is_one_line_and_one_document(
    model: str, status: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found, out, err = run(capsys, "map", model, LINEAR)
    assert (found, out) == (status, "")
    assert words in err
    assert err.count("\n") == 1
    found, out, _ = run(capsys, "map", model, LINEAR, "--json")
    assert found == status
    assert json.loads(out)["status"] == status


def test_a_forward_that_exits_proves_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    for model in ("attackers:later()",):
        assert run(capsys, "map", model, LINEAR)[0] in (1, 3)
        status, out, _ = run(capsys, "map", LINEAR, model, "--json")
        assert status in (1, 3)
        assert json.loads(out)


@pytest.mark.parametrize("arguments", [["map"], ["map", "--no"], ["nonsense"], ["verify", LINEAR, LINEAR, "none.json"]])
def test_errors_are_json_where_json_is_asked_for(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, *arguments, "--json")
    assert json.loads(out) == {"error": json.loads(out)["error"], "status": status}
    assert status in (2, 3)
    assert err.startswith("fxmap: error: ")


def test_shapes_that_fill_the_memory_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for shape in ("1x99999999999x99999", "9" * 5000, "1x" * 40 + "1000000000"):
        status, _, err = run(capsys, "map", LINEAR, LINEAR, "--inputs", shape)
        assert status == 2
        assert "--inputs" in err


@pytest.mark.parametrize("named", ["pipeline", "no_such_model", 5, "AutoConfig", "__name__"])
def test_a_configuration_names_models_alone(named: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": [named]}))
    status, _, err = run(capsys, "map", f"transformers:{tmp_path}/config.json", LINEAR)
    assert (status, "is no model of transformers" in err) == (2, True)


def test_keys_cannot_rule_the_terminal_nor_forge_lines(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    torch.save({"x\x1b]0;title\x07": torch.zeros(2), "y\nproof: ok": torch.ones(3)}, tmp_path / "a.pth")
    for arguments in (
        ["map", "a.pth", "attackers:hostile()"],
        ["diff", "a.pth", "attackers:hostile()"],
        ["explain", "attackers:hostile()", "attackers:hostile()", "b\nproof: ok"],
        ["explain", "attackers:hostile()", "attackers:hostile()", "b\x1b[2J"],
    ):
        _, out, err = run(capsys, *arguments)
        assert all(character == "\n" or character.isprintable() for character in out + err), (arguments, out + err)
        assert not any(line.strip() == "proof: ok" for line in (out + err).splitlines()), out
        _, out, _ = run(capsys, *arguments, "--json")
        assert json.loads(out)


def test_json_has_no_infinities() -> None:
    data = {"a": float("inf"), "b": [float("nan"), {"c": (-float("inf"), 1.5)}], "d": Path("x")}
    found = json.loads(as_json(data), parse_constant=pytest.fail)
    assert found == {"a": "inf", "b": ["nan", {"c": ["-inf", 1.5]}], "d": "x"}


def test_every_character_that_a_terminal_acts_on_is_escaped() -> None:
    for number in [*range(0x20), *range(0x7F, 0xA0), 0x202E, 0x2066, 0xDCFF, 0x2028]:
        if chr(number) not in "\n\t":
            assert escaped(f"a{chr(number)}b").isprintable()
    assert escaped("é 漢 →") == "é 漢 →"
    assert with_names_escaped("a\nb = c", {"expressions": {"a\nb": {}}}) == "a\\nb = c"


def python(*arguments: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "fxmap", *arguments], text=True, check=False, env=env, stderr=subprocess.PIPE, **options
    )


def test_what_models_print_is_not_in_the_result() -> None:
    done = python("map", "attackers:speaks()", LINEAR, "--json", stdout=subprocess.PIPE)
    assert json.loads(done.stdout)["expressions"].keys() == {"weight", "bias"}
    assert all(text in done.stderr for text in ("building", "forward", "below python", "at the exit"))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no such device here")
def test_a_result_that_cannot_be_written_is_status_4() -> None:
    torch.save(nn.Linear(2, 2).state_dict(), "a.pth")
    with open("/dev/full", "w") as full:
        done = python("diff", "a.pth", "a.pth", "--json", stdout=full)
    assert done.returncode == 4
    assert "could not be written" in done.stderr
    assert "Traceback" not in done.stderr
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = python("diff", "a.pth", "a.pth", stdout=write_end)
    os.close(write_end)
    assert (done.returncode, "Traceback" in done.stderr, "Exception" in done.stderr) == (4, False, False)


def test_closed_descriptors_get_no_files() -> None:
    torch.save(nn.Linear(2, 2).state_dict(), "a.pth")
    before = Path("a.pth").read_bytes()
    done = python("diff", "a.pth", "a.pth", stdout=None, preexec_fn=lambda: os.closerange(0, 2))
    assert done.returncode in (0, 4)
    assert "Traceback" not in done.stderr
    assert Path("a.pth").read_bytes() == before


def test_an_interrupt_while_importing_is_status_130() -> None:
    # A module that is imported first, and waits to be interrupted.
    Path("torch.py").write_text("import os, time; os.write(1, b'!'); time.sleep(60)")
    env = os.environ | {"PYTHONPATH": f"{os.getcwd()}:{Path(__file__).parents[2]}"}
    running = subprocess.Popen(
        [sys.executable, "-m", "fxmap", "diff", "a", "b"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env,
        # A shell that runs the tests in the background has it ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 -- nothing else runs
    )
    assert running.stdout is not None
    assert running.stdout.read(1) == b"!"
    time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=30)
    assert (running.returncode, err) == (130, b"fxmap: error: interrupted\n")


def test_the_current_folder_does_not_stand_in_for_a_package() -> None:
    for name in ("timm", "torchvision", "typer", "rich", "safetensors"):
        Path(f"{name}.py").write_text(f"open('{name}-was-run', 'w').close()")
    Path("mine.py").write_text("from torch import nn\ndef build(): return nn.Linear(3, 2)")
    done = python("map", "mine:build()", "torchvision:no_such_model", stdout=subprocess.PIPE)
    assert done.returncode == 2  # after mine.py was found
    assert "torchvision has no 'no_such_model'" in done.stderr
    assert list(Path().glob("*-was-run")) == []


def test_what_is_piped_is_not_folded() -> None:
    text = "note: " + "word " * 40
    assert folded(text) == text
    assert max(map(len, folded(text, 80).splitlines())) <= 80
