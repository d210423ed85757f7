"""Tables of which the source has some rows alone."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import fxmap
from fxmap.errors import LoadError, MappingError
from fxmap.expressions.base import Source
from fxmap.expressions.layout import Placed
from fxmap.testing.planted import randomised


class Positions(nn.Module):
    def __init__(self, rows: int) -> None:
        super().__init__()
        self.table, self.fc = nn.Parameter(torch.randn(rows, 4)), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(x + self.table[: x.shape[1]])
        return out


def test_a_shorter_table_fills_the_rows_that_it_has_where_the_others_may_be_kept() -> None:
    src, dst = randomised(Positions(6), 1), randomised(Positions(9), 2)
    x, own = torch.randn(1, 6, 4), dst.table.detach().clone()
    with pytest.raises(LoadError, match="rows 6:9 of table are not in the source: table has rows 0:6 alone"):
        fxmap.transfer(src, dst, example_inputs=x)
    with pytest.warns(fxmap.ProofWarning, match="table"):
        mapping = fxmap.transfer(src, dst, example_inputs=x, on_mismatch="keep")
    assert not mapping.ok
    assert mapping.status("fc.weight") == "proven"
    assert torch.equal(dst.table[:6], src.table)
    assert torch.equal(dst.table[6:], own[6:])


def test_a_table_in_part_is_left_out_of_a_converted_file_and_warned_of_where_a_mapping_is_loaded(tmp_path: Path) -> None:
    src, dst = randomised(Positions(6), 1), randomised(Positions(9), 2)
    torch.save(src.state_dict(), tmp_path / "a.pth")
    x, own = torch.randn(1, 6, 4), dst.table.detach().clone()
    with pytest.warns(fxmap.ProofWarning):
        mapping = fxmap.convert(tmp_path / "a.pth", tmp_path / "b", dst=dst, src=src, example_inputs=x, on_mismatch="keep")
    assert set(load_file(tmp_path / "b" / "model.safetensors")) == {"fc.weight", "fc.bias"}
    assert any("table" in note for note in mapping.knowledge.notes)
    with pytest.warns(fxmap.ProofWarning, match="rows 6:9 of table .* the destination keeps its own there"):
        mapping.load_into(dst, src.state_dict(), "keep")
    assert torch.equal(dst.table, torch.cat([src.table, own[6:]]))


def test_rows_that_do_not_fit_their_table_are_refused() -> None:
    with pytest.raises(MappingError, match="not the rows 0:3 of 4"):
        Placed(Source("a"), (0, 1, 2), 4).evaluate({"a": torch.ones(2, 1)})
    with pytest.raises(MappingError, match="a table of 1000000000000 rows"):
        Placed(Source("a"), (0, 1), 10**12).evaluate({"a": torch.ones(2, 1)})


class Buckets(nn.Module):
    """A bias for each difference of positions, of which far ones share one: some rows of the table are not read."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.bias, self.fc = nn.Embedding(rows, 1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        apart = (torch.arange(x.shape[1])[None] - torch.arange(x.shape[1])[:, None]).abs()
        places = torch.min(apart, torch.full_like(apart, 3)) * 2
        out: Tensor = self.fc(self.bias(places)[..., 0].softmax(-1) @ x)
        return out


def test_rows_that_are_looked_up_by_what_code_fills_are_followed() -> None:
    src, dst, x = randomised(Buckets(9), 1), randomised(Buckets(9), 2), torch.randn(1, 6, 4)
    mapping = fxmap.transfer(src, dst, example_inputs=x)
    assert mapping.ok
    assert torch.equal(dst.bias.weight, src.bias.weight)
