"""Operands of pieces, and attributes: bounds, thresholds and modes that no example reaches."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.proof.attacks.attack import Attack, Build, Net, conv, free, net, normal, numbers


def attacks() -> Iterator[Attack]:
    """Yield bounds and thresholds; attributes of layers; choices between two operands."""
    yield from _bounds()
    yield from _attributes()
    yield from _choices()


def _bound(value: float) -> Callable[[Any, Any], Any]:
    return lambda h, _: torch.clamp(h, max=torch.log(torch.tensor(value, dtype=h.dtype)))


def _bounds() -> Iterator[Attack]:
    yield net("clamp to a tensor", _bound(1e6), _bound(1e9))
    yield net("clamp to a buffer of another model", lambda h, _: h.clamp(max=20.0),
              lambda h, _: torch.minimum(h, torch.full((), 30.0, dtype=h.dtype)))  # fmt: skip
    yield net("hardtanh of 1000 or 2000", lambda h, _: F.hardtanh(h, -1e3, 1e3), lambda h, _: F.hardtanh(h, -2e3, 2e3),
              scale=1e4)  # fmt: skip
    yield net(
        "where with other thresholds", lambda h, _: torch.where(h > 40, 0.0, h), lambda h, _: torch.where(h > 60, 0.0, h)
    )
    yield net("where with a threshold that is computed", lambda h, _: torch.where(h > 40, 0.0, h),
              lambda h, _: torch.where(h * 2 > 160, 0.0, h))  # fmt: skip
    yield net("threshold and value", lambda h, _: F.threshold(h, -40.0, -40.0), lambda h, _: F.threshold(h, -40.0, 0.0))
    yield net(
        "masked_fill where it is large", lambda h, _: h.masked_fill(h > 40, 40.0), lambda h, _: h.masked_fill(h > 40, 41.0)
    )
    yield net("clamp on one side", lambda h, _: h.clamp(-30, 30), lambda h, _: h.clamp(-30, 40))
    yield net(
        "a number that is not there", lambda h, _: h, lambda h, _: torch.nan_to_num(h.log().exp() * 0) + h.clamp(max=50)
    )
    yield net("buckets with other boundaries", lambda h, _: h + torch.bucketize(h, torch.tensor([30.0, 60.0]).to(h)),
              lambda h, _: h + torch.bucketize(h, torch.tensor([40.0, 60.0]).to(h)))  # fmt: skip
    yield net("bound of a buffer's length", lambda h, _: h.clamp(max=float(8 * h.shape[-1])),
              lambda h, _: h.clamp(max=float(h.shape[-1] ** 2 // 2)))  # fmt: skip


def _attributes() -> Iterator[Attack]:
    def resize(**options: Any) -> Callable[[Any, Any], Any]:
        return lambda h, _: F.interpolate(h, **{"mode": "bilinear", "scale_factor": 0.5, **options})

    yield conv("recompute_scale_factor", resize(recompute_scale_factor=True), resize(recompute_scale_factor=False))
    yield conv("recompute_scale_factor, a third", resize(scale_factor=0.3, recompute_scale_factor=True),
               resize(scale_factor=0.3, recompute_scale_factor=False), example=(1, 3, 40, 40))  # fmt: skip
    to32 = {"scale_factor": None, "size": (32, 32)}
    yield conv("antialias of what is made larger", resize(**to32), resize(**to32, antialias=True), example=(1, 3, 16, 16),
               probe=(1, 3, 64, 64))  # fmt: skip
    yield conv("align_corners of the same size", resize(**to32), resize(**to32, align_corners=True), example=(1, 3, 32, 32),
               probe=(1, 3, 48, 48))  # fmt: skip
    yield conv("nearest and nearest-exact by whole factors", resize(mode="nearest", **to32),
               resize(mode="nearest-exact", **to32), example=(1, 3, 16, 16), probe=(1, 3, 24, 24))  # fmt: skip
    yield conv("count_include_pad of a map that is padded by 0", lambda h, _: F.avg_pool2d(h, 3, 2, 1),
               lambda h, _: F.avg_pool2d(F.pad(h, (1, 1, 1, 1)), 3, 2, count_include_pad=False).mul(1.0)
               if h.shape[-1] % 2 == 0 else F.avg_pool2d(h, 3, 2, 1, count_include_pad=False))  # fmt: skip
    yield conv(
        "ceil_mode of an average pool",
        lambda h, _: F.avg_pool2d(h, 3, 3),
        lambda h, _: F.avg_pool2d(h, 3, 3, 0, True),
        example=(1, 3, 63, 63),
        probe=(1, 3, 64, 64),
    )
    yield conv("the pad of a pool, minus infinity or 0", lambda h, _: F.max_pool2d(F.relu(h), 3, 2, 1),
               lambda h, _: F.max_pool2d(F.pad(F.leaky_relu(h, 0.0) - 0.0, (1, 1, 1, 1), value=-1e-3), 3, 2)
               .clamp(min=-1e3, max=1e3), scale=1e4)  # fmt: skip
    for name, options in (("max_norm", {"max_norm": 50.0}), ("max_norm of order 1", {"max_norm": 90.0, "norm_type": 1.0})):
        yield Attack(f"{name} of an embedding", _table({}), _table(options), lambda: (numbers(20, 2, 6),),
                     lambda: (numbers(20, 2, 6, seed=1),), train=lambda m: m.e.weight.mul_(100))  # fmt: skip
    yield free("dropout that is on", lambda m, x: m.a(x), lambda m, x: F.dropout(m.a(x), 1e-9, training=True).mul(1.0)
               if x.abs().max() < 50 else m.a(x) * 1.01, {"a": lambda: nn.Linear(8, 4)}, normal(2, 8),
               normal(2, 8, scale=100))  # fmt: skip


def _table(options: dict[str, Any]) -> Build:
    return lambda: _Table(options)


class _Table(nn.Module):
    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__()
        self.e, self.h, self.options = nn.Embedding(20, 8), nn.Linear(8, 4), options

    def forward(self, ids: Tensor) -> Any:
        # A copy, since max_norm writes into the table.
        return self.h(F.embedding(ids, self.e.weight.clone(), **self.options))


def _choices() -> Iterator[Attack]:
    yield net("before a dead relu", lambda h, _: h + F.relu(h - 100), lambda h, _: h + F.relu(3 * h - 100), scale=1e3)
    yield net(
        "a relu that is dead for one sign", lambda h, _: h + F.relu(h - 100), lambda h, _: h + F.relu(-h - 100), scale=1e3
    )
    yield net(
        "the larger of two: another loser",
        lambda h, _: torch.maximum(h, h - 100),
        lambda h, _: torch.maximum(h, -h - 100),
        scale=1e3,
    )
    yield net("the smaller of two: another loser", lambda h, _: torch.minimum(h, h / 2 + 50),
              lambda h, _: torch.minimum(h, h / 4 + 75), scale=1e3)  # fmt: skip
    yield net("largest or second largest of equal steps", lambda h, _: _twice(h).topk(2, 1)[0][:, :1],
              lambda h, _: _twice(h).topk(2, 1)[0][:, 1:], shape=(2, 1, 8), scale=100)  # fmt: skip
    yield net(
        "a branch that no value takes",
        lambda h, _: torch.where(h > 50, h * 2, h),
        lambda h, _: torch.where(h > 50, h * 3, h),
    )
    yield net("a gate that no value opens", lambda h, _: h + torch.where(h > 50, h * h / 50, 0.0),
              lambda h, _: h + torch.where(h > 50, F.silu(h), 0.0))  # fmt: skip
    yield net(
        "the slope of a dead leaky relu", lambda h, _: F.leaky_relu(h + 60, 0.1), lambda h, _: F.leaky_relu(h + 60, 0.2)
    )
    yield net("clamp of a sum or a sum of clamps", lambda h, _: (h + h.roll(1, -1)).clamp(-50, 50),
              lambda h, _: h.clamp(-25, 25) + h.roll(1, -1).clamp(-25, 25))  # fmt: skip
    yield net("lower and upper bound in another order", lambda h, _: h.clamp(-40, 40).clamp(min=-20),
              lambda h, _: h.clamp(-20, 40).clamp(max=39))  # fmt: skip
    yield Attack("two bounds that are buffers", lambda: Net(_between, low=torch.tensor(-30.0), high=torch.tensor(30.0)),
                 lambda: Net(_between, high=torch.tensor(30.0), low=torch.tensor(-30.0)), normal(2, 8),
                 normal(3, 8, scale=100, seed=1), keys={"a.weight": "a.weight", "a.bias": "a.bias", "h.weight": "h.weight",
                 "h.bias": "h.bias", "low": "high", "high": "low"}, wrong=("low", "high"))  # fmt: skip


def _twice(h: Tensor) -> Tensor:
    return torch.cat([h, h.clamp(max=30)], 1)


def _between(h: Tensor, m: Any) -> Tensor:
    return torch.minimum(torch.maximum(h, m.low - 30), m.high + 30)
