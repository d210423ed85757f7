"""The report as a page: what it holds, and that hostile names stay text."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

import fxmap
from fxmap.expressions.base import Source
from fxmap.mapping.findings import Findings, Note
from fxmap.mapping.key_mapping import KeyMapping
from fxmap.mapping.proof import Status


class Block(nn.Module):
    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.up, self.act, self.down = nn.Linear(4, 8), act, nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = x + self.down(self.act(self.up(x)))
        return out


def stack(last: nn.Module) -> nn.Module:
    return nn.Sequential(*(Block(nn.ReLU()) for _ in range(3)), Block(last))


def data_of(text: str) -> dict[str, object]:
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    data: dict[str, object] = json.loads(found[1])
    return data


def test_the_page_holds_both_graphs_their_pairs_and_every_key(tmp_path: Path) -> None:
    mapping = fxmap.auto_map(stack(nn.ReLU()), stack(nn.ReLU()), example_inputs=torch.randn(2, 4))
    data = data_of(mapping.to_html(tmp_path / "map.html", title="a to b"))
    assert data["verdict"] == "proven"
    assert [row["key"] for row in data["keys"]] == list(mapping)  # type: ignore[attr-defined]
    graphs = data["graphs"]
    assert isinstance(graphs, dict)
    assert [op[1] for op in graphs["dst"]["ops"]].count("linear") == 8
    assert len(graphs["pairs"]) == len(graphs["dst"]["ops"])
    assert (tmp_path / "map.html").read_text(encoding="utf-8").count("a to b") == 2


def test_names_from_a_checkpoint_cannot_end_the_script() -> None:
    key = "</script><script>alert(1)</script><!--"
    mapping = KeyMapping({key: Source(key)}, Findings({key: Status.GUESSED}))
    text = mapping.to_html(title=key)
    assert text.count("</script>") == 2
    assert "<script>alert" not in text
    assert data_of(text)["title"] == key
    assert "<script>" not in mapping._repr_html_()


def test_a_page_needs_no_network() -> None:
    text = KeyMapping({"a": "b"}).to_html()
    assert not re.search(r"""(src|href)=["']?(https?:)?//|@import|url\(""", text)
    assert "default-src 'none'" in text


def test_a_mapping_of_a_thousand_operations_is_a_page_of_less_than_two_megabytes() -> None:
    src, dst = (nn.Sequential(*(Block(nn.ReLU()) for _ in range(240))) for _ in range(2))
    mapping = fxmap.auto_map(src, dst, example_inputs=torch.randn(1, 4), verify=False)
    assert mapping.graphs is not None
    assert len(mapping.graphs.dst.operations) > 900
    assert len(mapping.to_html()) < 2e6


def test_the_graphs_survive_what_changes_a_mapping() -> None:
    src, dst = stack(nn.ReLU()), nn.ModuleDict({"body": stack(nn.ReLU())})["body"]
    mapping = fxmap.auto_map(src, dst, example_inputs=torch.randn(2, 4))
    assert mapping.graphs is not None
    assert mapping.with_notes(Note("checked")).graphs is mapping.graphs
    assert mapping.graphs.under("body.").dst.operations[1].keys == ("body.0.up.weight", "body.0.up.bias")


@pytest.mark.slow
def test_in_a_browser_a_key_is_found_its_counterpart_lights_up_and_the_divergence_is_open(tmp_path: Path) -> None:
    webdriver = pytest.importorskip("selenium.webdriver")
    driver_file = shutil.which("chromedriver")
    if driver_file is None:
        pytest.skip("no chromedriver")
    mapping = fxmap.auto_map(stack(nn.ReLU()), stack(nn.ReLU6()), example_inputs=torch.randn(2, 4))
    mapping.to_html(tmp_path / "map.html")
    options = webdriver.ChromeOptions()
    options.add_argument("--headless=new")
    options.add_argument("--no-sandbox")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(driver_file)) as driver:
        driver.get((tmp_path / "map.html").as_uri())
        parted = driver.find_elements("css selector", ".row.parted")
        assert len(parted) == 2
        assert "hardtanh" in parted[0].text + parted[1].text
        driver.find_element("id", "general").click()
        driver.find_element("id", "search").send_keys("3.down")
        rows = driver.find_elements("css selector", "#keys tbody tr")
        assert [row.get_attribute("data-key") for row in rows] == ["3.down.weight", "3.down.bias"]
        rows[0].click()
        assert len(driver.find_elements("css selector", ".row.pinned")) == 2
        assert "3.down.weight [4, 8]" in driver.find_element("id", "detail").text
        assert not driver.get_log("browser")
        norms = [nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=eps), nn.ReLU()) for eps in (1e-5, 1e-3)]
        fxmap.auto_map(*norms).to_html(tmp_path / "folded.html")
        driver.get((tmp_path / "folded.html").as_uri())
        # The norm is read through its convolution.
        assert ["convolution" in row.text for row in driver.find_elements("css selector", ".row.parted")] == [True, True]
        assert "eps" in driver.find_element("id", "detail").text
        assert not driver.get_log("browser")
