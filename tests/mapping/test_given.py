"""What is given in the place of a mapping, a state dict, a key or a status is called what it is, with the next step."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fxmap

MAPPING = fxmap.auto_map(nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2)))
ANY: Any = None


@pytest.mark.parametrize(
    "ask", [MAPPING.status, MAPPING.__getitem__, MAPPING.proof.status], ids=["status", "getitem", "proof"]
)
def test_a_key_that_is_misspelt_gets_the_closest(ask: Callable[[str], object]) -> None:
    with pytest.raises(KeyError) as raised:
        ask("0.wieght")
    assert str(raised.value) == "0.wieght: not a key of the destination, which has 2; the closest is 0.weight"


def test_asking_whether_a_key_is_there_looks_for_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fxmap.mapping.given.get_close_matches", lambda *a, **k: pytest.fail("it looked"))
    assert "0.wieght" not in MAPPING
    assert MAPPING.get("0.wieght") is None


@pytest.mark.parametrize("ask", [MAPPING.keys_with, MAPPING.knowledge.keys_with], ids=["mapping", "findings"])
def test_a_status_is_a_member_or_its_name(ask: Callable[[Any], list[str]]) -> None:
    assert ask("proven") == ask(fxmap.Status.PROVEN) == ["0.weight", "0.bias"]
    with pytest.raises(ValueError, match="'prooven': no status, the closest is 'proven'; they are proven, tied, "):
        ask("prooven")


@pytest.mark.parametrize("name", ["m.json", Path("m.json")])
def test_the_path_of_a_mapping_is_no_mapping(name: Any, tmp_path: Path) -> None:
    reads = r"fxmap\.KeyMapping\.from_json\(pathlib\.Path\('m\.json'\)\.read_text\(\)\)"
    model = nn.Linear(2, 2)
    for call in (
        lambda: fxmap.KeyMapping(name),
        lambda: fxmap.KeyMapping.from_json(name),
        lambda: fxmap.verify_files("a.pth", "a.pth", name),
        lambda: fxmap.verify(model, model, name),
    ):
        with pytest.raises(fxmap.MappingError, match=f"the path 'm.json': .*{reads}"):
            call()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "JSONDecodeError"),
        ("{}", r"no entry 'fxmap'.*fxmap\.KeyMapping\(dict\)"),
        ('["a"]', "no entry 'fxmap'"),
        ('{"a": "b"}', "no entry 'fxmap'"),
        ({"a": "b"}, r"a dict: json\.dumps"),
        (None, "a NoneType: it takes the text that to_json returned"),
        (b"{}", "no entry 'fxmap'"),
    ],
)
def test_what_is_no_json_of_a_mapping_is_called_what_it_is(text: Any, words: str) -> None:
    with pytest.raises(fxmap.MappingError, match=words):
        fxmap.KeyMapping.from_json(text)


@pytest.mark.parametrize("state", [None, 5, nn.Linear(2, 2), nn.ModuleDict(), dict, [torch.ones(2)]])
def test_what_is_no_state_dict_is_refused_by_name(state: Any) -> None:
    dst = nn.Sequential(nn.Linear(2, 2))
    for call in (
        lambda: MAPPING.apply(state),
        lambda: MAPPING.evaluate(state),
        lambda: MAPPING.lazy(state),
        lambda: MAPPING.load_into(dst, state),
        *([lambda: MAPPING.inverse(state)] if state is not None else []),
    ):
        with pytest.raises(fxmap.ArgumentError, match=r"state_dict is a mapping of keys to tensors, not .*: give model\."):
            call()


def test_a_path_is_read_where_it_says_so() -> None:
    with pytest.raises(fxmap.ArgumentError, match=r"not the path 'a\.pth': mapping\.lazy\(path\) and .* read files"):
        MAPPING.apply("a.pth")  # type: ignore[arg-type]


def test_a_state_dict_that_lacks_a_key_has_another_that_is_close() -> None:
    with pytest.raises(fxmap.MappingError, match=r"0\.weight: not in the source state dict, .* the closest is 0\.weigth"):
        MAPPING.apply({"0.weigth": torch.ones(2, 2), "0.bias": torch.ones(2)})


def test_keys_that_are_kept_are_said() -> None:
    dst = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with pytest.warns(
        fxmap.ProofWarning, match=r"2 keys .* keep their own values, as nothing was made for 1\.weight, 1\.bias"
    ):
        MAPPING.load_into(dst, {"0.weight": torch.ones(2, 2), "0.bias": torch.ones(2)}, on_mismatch="keep")
    MAPPING.load_into(dst, {"0.weight": torch.ones(2, 2), "0.bias": torch.ones(2)}, on_mismatch="keep", verify=False)


def test_tensors_that_are_compared_have_one_shape() -> None:
    with pytest.raises(fxmap.ArgumentError, match=r"one shape, not \[2\] and \[1\]"):
        fxmap.sqnr(torch.ones(2), torch.ones(1))
    with pytest.raises(fxmap.ArgumentError, match="not NoneType and Tensor"):
        fxmap.sqnr(ANY, torch.ones(1))
