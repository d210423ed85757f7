"""An interrupt while a public name is imported for the first time: the next import begins anew."""

import random
from pathlib import Path

import pytest

import fxmap

REGISTERS = "known = set()\n\n\ndef register(name):\n    assert name not in known\n    known.add(name)\n"
CUT_ONCE = "import sys\n\nif not hasattr(sys, 'second_time'):\n    raise KeyboardInterrupt\n"


def test_a_public_name_whose_import_was_interrupted_can_be_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "registers_names"
    package.mkdir()
    (package / "__init__.py").write_text(f"from registers_names.table import register\nregister('a')\n{CUT_ONCE}value = 3\n")
    (package / "table.py").write_text(REGISTERS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(fxmap, "_HOMES", {"registers_names": ("value",)})
    before = random.getstate()
    with pytest.raises(KeyboardInterrupt):
        _ = fxmap.value
    assert before == random.getstate()
    monkeypatch.setattr("sys.second_time", True, raising=False)
    assert fxmap.value == 3
    monkeypatch.delattr(fxmap, "value")
