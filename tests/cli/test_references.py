"""Names of models and files on the command line: what is understood, and what is refused."""

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from fxmap.cli.references import FactoryError, FetchError, UsageError, parse, resolve
from fxmap.errors import CheckpointError
from fxmap.files.checkpoint import Checkpoint


def test_a_name_is_taken_apart() -> None:
    reference = parse("package.module:Class.method(1, 'a', flag=True, sizes=[1, 2])")
    assert (reference.origin, reference.name) == ("package.module", "Class.method")
    assert reference.args == (1, "a")
    assert reference.kwargs == {"flag": True, "sizes": [1, 2]}
    assert parse("timm:resnet50.a1_in1k").name == "resnet50.a1_in1k"


@pytest.mark.parametrize("arguments", ["__import__('os').getcwd()", "x", "1 if True else 2", "lambda: 1", "open('a')"])
def test_nothing_but_literals_is_evaluated(arguments: str) -> None:
    with pytest.raises(UsageError, match="arguments are literals"):
        parse(f"torch.nn:Linear({arguments})")


@pytest.mark.parametrize("text", ["torch.nn:Linear(", "torch.nn:", "torch nn:Linear", "torch.nn:a+b", "torch.nn:f()()"])
def test_what_is_not_understood_shows_the_forms(text: str) -> None:
    with pytest.raises(UsageError, match=r"the forms are torchvision:NAME\(arguments\)"):
        parse(text)


def test_double_stars_are_not_understood() -> None:
    with pytest.raises(UsageError, match=r"\*\* is not understood"):
        parse("torch.nn:Linear(**{'in_features': 1})")


def test_models_are_built() -> None:
    model = resolve("torchvision:resnet18(num_classes=5)")
    assert isinstance(model, nn.Module)
    assert model.fc.out_features == 5
    assert not model.training
    assert isinstance(resolve("torch.nn:Linear(2, 3)"), nn.Linear)


def test_a_configuration_of_transformers(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    file = tmp_path / "config.json"
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 11}
    file.write_text(json.dumps({"model_type": "bert", "architectures": ["BertModel"], **small}))
    assert type(resolve(f"transformers:{file}")).__name__ == "BertModel"
    file.write_text("{}")
    with pytest.raises(UsageError, match="not a configuration of transformers"):
        resolve(f"transformers:{file}")


def test_a_checkpoint_is_read(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "a.pth")
    found = resolve(str(tmp_path / "a.pth"))
    assert isinstance(found, Checkpoint)
    assert list(found.state) == ["weight", "bias"]


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("torchvision:resnet81", UsageError, "torchvision has no 'resnet81'; the closest is 'resnet18'"),
        ("nowhere_at_all:f", UsageError, "nowhere_at_all cannot be imported"),
        ("torch.nn:Liner(2)", UsageError, "torch.nn has no 'Liner'; the closest is 'Linear'"),
        ("torch:__version__", UsageError, "cannot be called"),
        ("torch.nn:Linear(2)", FactoryError, "building it raised TypeError"),
        ("torch:zeros(2)", FactoryError, "returned a Tensor, not a model"),
        ("nowhere.py:build()", UsageError, "no such file"),
        ("nowhere.pth", CheckpointError, "no such file"),
    ],
)
def test_what_is_refused(text: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        resolve(text)
    assert words in str(caught.value)
    assert str(caught.value).startswith(text)


SMALL = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 11}


def test_a_folder_of_transformers_is_its_configuration(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": ["BertModel"], **SMALL}))
    assert type(resolve(f"transformers:{tmp_path}")).__name__ == "BertModel"
    (tmp_path / "config.json").unlink()
    with pytest.raises(UsageError, match="not a configuration of transformers: FileNotFoundError"):
        resolve(f"transformers:{tmp_path}")


def test_of_a_model_of_the_hub_the_configuration_alone_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    hub = pytest.importorskip("huggingface_hub")
    # Whoever trusts it runs the code that `auto_map` names.
    remote = {"auto_map": {"AutoModel": "evil.Evil"}, "architectures": ["BertModel"]}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", **remote, **SMALL}))
    asked = []

    def download(name: str, file: str, revision: str | None) -> str:
        asked.append((name, file, revision))
        return str(tmp_path / file)

    monkeypatch.setattr(hub, "hf_hub_download", download)
    assert type(resolve("hf:some-org/bert.small")).__module__.startswith("transformers.")
    resolve("hf:some-org/bert.small@v2")
    assert asked == [("some-org/bert.small", "config.json", None), ("some-org/bert.small", "config.json", "v2")]


def test_a_configuration_of_timm_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("timm")
    pytest.importorskip("transformers")
    hub = pytest.importorskip("huggingface_hub")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet10t", "num_classes": 3}))
    monkeypatch.setattr(hub, "hf_hub_download", lambda *_, **__: str(tmp_path / "config.json"))
    model = resolve("hf:timm/resnet10t.c3_in1k")
    assert isinstance(model, nn.Module)
    assert model.fc.out_features == 3


def test_what_cannot_be_fetched_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    hub = pytest.importorskip("huggingface_hub")

    def download(*_: object, **__: object) -> str:
        raise OSError("no network\nat all")

    monkeypatch.setattr(hub, "hf_hub_download", download)
    with pytest.raises(FetchError, match=r"hf:a/b: its config\.json cannot be fetched .* OSError: no network\. Correct"):
        resolve("hf:a/b")


def test_without_the_client_of_the_hub_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UsageError, match="huggingface_hub cannot be imported"):
        resolve("hf:a/b")


FILE = """
from torch import nn
from beside import WIDTH

def build(depth=1):
    return nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(depth)))
"""


def test_a_factory_of_a_file_is_run_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.py").write_text(FILE)
    (tmp_path / "beside.py").write_text("WIDTH = 3")
    try:
        model = resolve(f"{tmp_path}/net.py:build(depth=2)")
    finally:
        sys.path.remove(str(tmp_path))
        del sys.modules["beside"]
    assert isinstance(model, nn.Sequential)
    assert len(model) == 2
    assert capsys.readouterr().err == f"fxmap: running the code of {tmp_path}/net.py\n"
    with pytest.raises(UsageError, match="has no 'built'; the closest is 'build'"):
        resolve(f"{tmp_path}/net.py:built()")
