"""What surrounds a call: half of an import that an interrupt has left."""

import sys
from pathlib import Path

import pytest

from fxmap.model.surroundings import undisturbed


def test_a_package_whose_import_was_interrupted_can_be_imported_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "halves_of_it"
    package.mkdir()
    (package / "part.py").write_text("value = 3\n")
    (package / "__init__.py").write_text(
        "from . import part\nimport sys\nif not hasattr(sys, 'second_time'):\n    raise KeyboardInterrupt\n"
        "import halves_of_it.part\nvalue = halves_of_it.part.value\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))

    @undisturbed
    def imports() -> int:
        import halves_of_it  # type: ignore[import-not-found]

        return int(halves_of_it.value)

    with pytest.raises(KeyboardInterrupt):
        imports()
    assert "halves_of_it.part" not in sys.modules
    monkeypatch.setattr(sys, "second_time", True, raising=False)
    assert imports() == 3
    for name in ("halves_of_it", "halves_of_it.part"):
        monkeypatch.delitem(sys.modules, name)
