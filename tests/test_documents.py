"""The documents name files that exist, and the table of rooms is the contract of the imports."""

import re
import tomllib
import warnings
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("docs/architecture.md", "CONTRIBUTING.md")
SUFFIXES = (".py", ".md", ".toml", ".yaml")

# In a recipe, the name of a file that the reader is to make.
PLACEHOLDER = "NAME"


def prose(text: str) -> str:
    """Return a document without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def named_paths(text: str) -> list[str]:
    """Return the files and folders that a document names in backticks: what has a slash, or ends as a file does."""
    spans = re.findall(r"`([\w./-]+)`", prose(text))
    return list(dict.fromkeys(span for span in spans if "/" in span or span.endswith(SUFFIXES)))


def is_there(path: str) -> bool:
    place = ROOT / path
    return place.parent.is_dir() if PLACEHOLDER in place.name else place.exists()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_and_folder_in_backticks_exists(document: str) -> None:
    paths = named_paths((ROOT / document).read_text(encoding="utf-8"))
    assert len(paths) > 20
    assert [path for path in paths if not is_there(path)] == []


@pytest.mark.parametrize("document", [*DOCUMENTS, "README.md", "docs/index.md", "docs/shown.md", "docs/guides/int8.md"])
def test_every_link_to_a_file_leads_to_one(document: str) -> None:
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", prose((ROOT / document).read_text(encoding="utf-8")))
    files = [target for target in targets if "://" not in target]
    assert files
    assert [target for target in files if not ((ROOT / document).parent / target).is_file()] == []


def test_a_path_that_is_not_there_is_found() -> None:
    text = "`fxmap/graph/kinds.py`, `fxmap/grpah/kinds.py`, `gone.py`, `fxmap/gone/NAME.py`\n```\n`fenced/gone.py`\n```\n"
    assert [path for path in named_paths(text) if not is_there(path)] == [
        "fxmap/grpah/kinds.py",
        "gone.py",
        "fxmap/gone/NAME.py",
    ]


def test_the_rooms_stand_in_the_order_of_the_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    floors = [layer.replace(".", "/").split(" | ") for layer in reversed(contracts[0]["layers"])]
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    section = text.split("## The rooms")[1].split("\n## ")[0]
    rows = [re.findall(r"`([\w./]+)`", line.split("|")[1]) for line in section.splitlines() if line.startswith("| `")]
    assert [room.removesuffix(".py") for row in rows for room in row] == [room for floor in floors for room in floor]
    packages = {path.parent.name for path in ROOT.glob("fxmap/*/__init__.py")}
    assert packages <= {room.removeprefix("fxmap/") for row in rows for room in row}


@pytest.mark.parametrize(
    "check", ["ruff check", "ruff format", "mypy", "lint-imports", "towncrier build --draft --version next"]
)
def test_a_check_is_the_same_before_a_commit_in_ci_and_in_the_document(check: str) -> None:
    for file in ("CONTRIBUTING.md", ".pre-commit-config.yaml", ".ci/run"):
        assert check in (ROOT / file).read_text(encoding="utf-8"), file


def test_the_first_command_to_set_up_is_that_of_the_readme() -> None:
    command = "python3 -m venv .venv && .venv/bin/pip install -q -e '.[test]' && .venv/bin/pytest\n"
    for file in ("CONTRIBUTING.md", "README.md"):
        assert command in (ROOT / file).read_text(encoding="utf-8"), file


def blocks(text: str) -> list[str]:
    """Return the Python blocks of a document, but for those of a prompt, which are doctests."""
    found = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [block for block in found if not block.startswith(">>>")]


# Run by tests of its own, which build its models and folders.
ELSEWHERE = ("docs/large.md",)


@pytest.mark.parametrize(
    "page", sorted({str(page.relative_to(ROOT)) for page in ROOT.glob("docs/**/*.md")} - set(ELSEWHERE))
)
def test_the_code_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = blocks((ROOT / page).read_text(encoding="utf-8"))
    if not found:
        return
    for package in re.findall(r"^import (.*)$", "\n".join(found), re.MULTILINE):
        for name in re.split(r",\s*", package.split("#")[0].strip()):
            pytest.importorskip(name.split(" ")[0])
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict[str, object] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for block in found:
            exec(compile(block, page, "exec"), names)  # a page's blocks follow one another


@pytest.mark.slow
def test_the_code_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("timm", "transformers"):
        pytest.importorskip(name)
    import torchvision
    from safetensors.torch import save_file

    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = torchvision.models.inception_v3(weights=None, aux_logits=False, init_weights=False)
    model.fc = torch.nn.Linear(2048, 2)
    torch.save(model.state_dict(), "float.pth")
    names: dict[str, object] = {"images": [torch.randn(2, 3, 96, 96)]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for block in blocks((ROOT / "README.md").read_text(encoding="utf-8")):
            if "model.onnx" in block:
                continue  # tests/sources/test_onnx.py loads what torch exports
            if "unknown.safetensors" in block:
                dst = names["dst"]
                assert isinstance(dst, torch.nn.Module)
                names["state_dict"] = {f"net.{key}": value.clone() for key, value in dst.state_dict().items()}
                save_file(names["state_dict"], "unknown.safetensors")
            exec(compile(block, "README.md", "exec"), names)


def test_the_readme_is_a_screen_and_a_half() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 130
