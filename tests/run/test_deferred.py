"""Deferred tensors: they give what their numbers give, and make few of these at once."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fxmap.run import deferred, recipe
from fxmap.run.deferred import Deferred, Sparing
from fxmap.run.drawn import drawn
from fxmap.run.recipe import Recipe


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "BLOCK", 16)


def _pair(*shape: int, seed: int = 0) -> tuple[Deferred, Tensor]:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Deferred(Recipe(shape, torch.float64, lambda a, b: values[a:b].clone())), values


X = torch.randn(3, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
IDS = torch.tensor([[0, 7, 3], [7, 7, 1]])


@pytest.mark.parametrize(
    "compute",
    [
        lambda w, v: F.linear(X, w),
        lambda w, v: F.linear(X, w, torch.ones(8, dtype=torch.float64)),
        lambda w, v: F.linear(X.expand(2, 3, 6), w),
        lambda w, v: X @ w.t(),
        lambda w, v: w @ X.t(),
        lambda w, v: X.new_ones(2, 8) @ w,
        lambda w, v: F.embedding(IDS, w),
        lambda w, v: F.linear(X, torch.cat((w, v, 3 * w))),
        lambda w, v: F.linear(X, torch.cat((w, v))[5:13]),
        lambda w, v: F.linear(X, w[torch.tensor([3, 1, -1])]),
        lambda w, v: F.linear(X, w[[2, 3, 4]]),
        lambda w, v: w.split([3, 5])[1].sum(),
        lambda w, v: w.chunk(2)[0].abs().sum(),
        lambda w, v: (w * 2 - v).mean(),
        lambda w, v: (w > 0).all(),
        lambda w, v: (w.t() == w.t()).any(),
        lambda w, v: torch.bmm(X.reshape(3, 1, 6).expand(3, 2, 6)[:2], w[:2].reshape(2, 6, 1)),
        lambda w, v: torch.bmm(w.reshape(8, 3, 2), torch.ones(8, 2, 4, dtype=torch.float64)),
        lambda w, v: w.reshape(2, 4, 6).transpose(1, 2).float(),
        lambda w, v: torch.einsum("ni,oi->no", X, w),
        lambda w, v: w.squeeze().view(8, 6)[:, 2:4],
        lambda w, v: torch.stack((w, v)).norm(),
        lambda w, v: torch.addmm(X.new_ones(3, 8), X, w.t(), alpha=2, beta=0.5),
    ],
)
def test_an_operation_gives_what_it_gives_on_the_numbers(compute: Callable[[Tensor, Tensor], Tensor]) -> None:
    (w, a), (v, b) = _pair(8, 6), _pair(8, 6, seed=1)
    found, expected = compute(w, v), compute(a, b)
    torch.testing.assert_close(deferred.numbers(found), expected, rtol=1e-12, atol=1e-12)


def test_gradients_are_those_of_the_numbers_and_stay_deferred() -> None:
    def loss(w: Tensor, table: Tensor) -> Tensor:
        return (F.linear(F.embedding(IDS, table), w).sin() * F.linear(X.reshape(3, 6), torch.cat((w, w)))[0, :8]).sum()

    (w, a), (table, rows) = _pair(8, 6), _pair(9, 6, seed=1)
    for leaf in (w, a, table, rows):
        leaf.requires_grad_(True)
    with Sparing():
        found = torch.autograd.grad(loss(w, table), [w, table])
    expected = torch.autograd.grad(loss(a, rows), [a, rows])
    assert isinstance(found[0], Deferred)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(deferred.numbers(one), other, rtol=1e-10, atol=1e-10)
        assert float(one.abs().sum()) == pytest.approx(float(other.abs().sum()))
        assert int((one == 0).sum()) == int((other == 0).sum())


def test_a_product_makes_no_more_rows_at_once_than_a_block_has() -> None:
    most = 0

    def rows(start: int, stop: int) -> Tensor:
        nonlocal most
        most = max(most, stop - start)
        return torch.ones(stop - start, 4)

    weight = Deferred(Recipe((100, 4), torch.float32, rows))
    assert F.linear(torch.ones(1, 4), weight).sum() == 400
    assert most == 4


def test_equal_recipes_are_equal_without_their_numbers() -> None:
    one, other = (Deferred(drawn("a", (2000, 400), 1.0, seed=0)) for _ in range(2))
    assert torch.equal(one, other)
    assert torch.equal(torch.cat((one, other))[2000:], one)
    assert not torch.equal(one, Deferred(drawn("b", (2000, 400), 1.0, seed=0)))
    assert not torch.equal(one[1:], one[:-1])


def test_a_write_is_refused() -> None:
    weight, values = _pair(8, 6)
    with torch.no_grad(), pytest.raises(RuntimeError, match="would write to a weight"):
        weight.mul_(2)
    assert torch.equal(deferred.numbers(weight), values)


def test_numbers_that_are_drawn_again_are_the_same_in_any_part() -> None:
    for shape in ((3000, 400), (3, 700_000), (5, 3, 90_000), (1 << 20,)):
        made = drawn("key", shape, 0.5, seed=3)
        whole = made.all()
        assert whole.shape == shape
        assert float(whole.std()) == pytest.approx(0.5, rel=0.2)
        assert torch.equal(made.rows(1, 3), whole[1:3])
        for start, stop in list(made.blocks())[:3]:
            window, factor = made.factored(start, stop)
            torch.testing.assert_close(window * factor, whole[start:stop], rtol=1e-12, atol=0)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of memory is read from Linux")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_an_operation_on_a_large_weight_takes_no_memory_of_its_size(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(recipe, "BLOCK", 1 << 16)
    weight = Deferred(drawn("weight", (60_000, 2048), 0.1, seed=0, dtype=dtype))  # 245 MB or more
    one = torch.ones(1, 2048, dtype=dtype)
    F.linear(one, weight[:600])  # pools and kernels are there
    Path("/proc/self/clear_refs").write_text("5")
    before = _peak()
    F.linear(one, weight)
    assert bool(torch.isfinite(weight).all())
    assert weight[:100].sum() != 0
    assert _peak() - before < 200


def _peak() -> float:
    """Return the largest resident memory since it was reset, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def test_drawn_rows_are_the_same_one_by_one_and_by_number() -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        weight = Deferred(drawn("table", (9000, 64), 0.1, seed=1, dtype=dtype))
        index = torch.tensor([8999, 0, 4000, 0, 8191, 8192])
        assert torch.equal(F.embedding(index, weight), weight.recipe.all()[index])


def test_a_table_refuses_indices_that_torch_refuses() -> None:
    weight, values = _pair(8, 6)
    for table in (weight, values):
        with pytest.raises(RuntimeError, match="Expected tensor for argument #1 'indices'"):
            F.embedding(IDS.to(torch.uint8), table)
