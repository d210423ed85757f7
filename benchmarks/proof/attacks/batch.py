"""A batch of one, or of equal samples: statistics over the batch are then those of each sample."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.proof.attacks.attack import Attack, Free, conv, free, net, normal


def attacks() -> Iterator[Attack]:
    """Yield statistics over the batch; what moves samples; layers that take another axis for the batch."""
    for attack in chain(_statistics(), _moved(), _layers()):
        yield replace(attack, names=("batch",))


def _standardised(h: Tensor, dims: tuple[int, ...]) -> Tensor:
    return (h - h.mean(dims, keepdim=True)) / (h.var(dims, keepdim=True, unbiased=False) + 1e-5).sqrt()


def _statistics() -> Iterator[Attack]:
    one, three = (1, 3, 16, 16), (3, 3, 16, 16)
    yield conv("standardised over the batch", lambda h, _: _standardised(h, (1, 2, 3)),
               lambda h, _: _standardised(h, (0, 1, 2, 3)), example=one, probe=three)  # fmt: skip
    yield conv("standardised by channel over the batch", lambda h, _: _standardised(h, (2, 3)),
               lambda h, _: _standardised(h, (0, 2, 3)), example=one, probe=three)  # fmt: skip
    yield conv("instance norm, batch norm without statistics", lambda h, _: F.instance_norm(h),
               lambda h, _: F.batch_norm(h, None, None, training=True), example=one, probe=three)  # fmt: skip
    yield net("largest of the batch", lambda h, _: h / h.abs().amax((1, 2), keepdim=True),
              lambda h, _: h / h.abs().max(), shape=(3, 5, 8), example=1, scale=1)  # fmt: skip
    yield net("centred by the mean of the batch", lambda h, _: h - h.mean(1, keepdim=True),
              lambda h, _: h - h.mean((0, 1), keepdim=True), shape=(3, 5, 8), example=1, scale=1)  # fmt: skip
    yield net("norm of the whole batch", lambda h, _: h / h.norm(dim=(1, 2), keepdim=True), lambda h, _: h / h.norm(),
              shape=(3, 5, 8), example=1, scale=1)  # fmt: skip
    yield net("groups of four samples, or of five", lambda h, _: _centred_in_groups(h, 4),
              lambda h, _: _centred_in_groups(h, 5), shape=(20, 8), example=4, scale=1)  # fmt: skip


def _centred_in_groups(h: Tensor, size: int) -> Tensor:
    groups = h.reshape(-1, min(size, len(h)), h.shape[-1])
    return (groups - groups.mean(1, keepdim=True)).reshape(h.shape)


def _moved() -> Iterator[Attack]:
    for name, other in (
        ("rolled over the batch", lambda h, _: h + torch.tanh(h.roll(1, 0))),
        ("flipped over the batch", lambda h, _: h + torch.tanh(h.flip(0))),
        ("the first sample added to all", lambda h, _: h + torch.tanh(h[:1])),
        ("the mean of the batch added", lambda h, _: h + torch.tanh(h.mean(0, keepdim=True))),
        ("summed over the batch", lambda h, _: h + torch.tanh(h.sum(0, keepdim=True))),
        ("cumulative over the batch", lambda h, _: h + torch.tanh(h.cumsum(0))),
        ("the largest of the batch added", lambda h, _: h + torch.tanh(h.amax(0, keepdim=True))),
        ("sorted over the batch", lambda h, _: h + torch.tanh(h.sort(0)[0])),
        ("the last sample, by an index", lambda h, _: h + torch.tanh(h.index_select(0, torch.tensor([h.shape[0] - 1])))),
    ):
        yield net(name, lambda h, _: h + torch.tanh(h), other, shape=(3, 5, 8), example=1, scale=1)
    yield net("a batch of two, rolled by two", lambda h, _: h, lambda h, _: h.roll(2, 0), shape=(3, 5, 8), scale=1)
    yield net("softmax over the batch", lambda h, _: h + torch.ones_like(h), lambda h, _: h + h.softmax(0),
              shape=(3, 5, 8), example=1, scale=1)  # fmt: skip


def _attending(m: nn.Module, x: Tensor) -> Tensor:
    result: Tensor = m.attend(x, x, x, need_weights=False)[0]  # type: ignore[operator]
    return result


def _layers() -> Iterator[Attack]:
    def heads(batch_first: bool) -> Free:
        return Free(_attending, {"attend": lambda: nn.MultiheadAttention(8, 2, batch_first=batch_first)})

    yield Attack("attention over the batch, one token of one sample", lambda: heads(True), lambda: heads(False),
                 normal(1, 1, 8), normal(3, 3, 8, seed=1))  # fmt: skip
    yield free(
        "recurrent over the batch, one step of one sample",
        lambda m, x: m.h(m.r(x)[0]),
        lambda m, x: m.h(m.r(x.transpose(0, 1))[0].transpose(0, 1)),
        {"r": lambda: nn.GRU(8, 8), "h": lambda: nn.Linear(8, 4)},
        normal(1, 1, 8),
        normal(3, 3, 8, seed=1),
    )
    yield free("samples against one another", lambda m, x: m.a(x) * (m.a(x) * m.b(x)).sum(-1, keepdim=True),
               lambda m, x: m.a(x) * (m.a(x) @ m.b(x).T).sum(-1, keepdim=True),
               {"a": lambda: nn.Linear(8, 8), "b": lambda: nn.Linear(8, 8)}, normal(1, 8), normal(3, 8, seed=1))  # fmt: skip
