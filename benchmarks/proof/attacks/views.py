"""Writes through views and in place: what lies behind one is lost where a graph forgets it."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.proof.attacks.attack import Attack, Net, net, normal

Act = Callable[[Tensor], Tensor]
Write = Callable[[Tensor, Act], Tensor]


def attacks() -> Iterator[Attack]:
    """Yield every way to write, with two activations that agree on small inputs or on positive ones."""
    for name, write in _WRITES.items():
        yield _written(f"{name}: relu6 for relu", write, F.relu, F.relu6)
    for name in ("slice assigned", "loop over steps", "index_put_", "scatter_"):
        yield _written(f"{name}: clamped to 40", _WRITES[name], lambda y: y, lambda y: y.clamp(-40, 40))
    yield Attack(
        "a buffer filled in place",
        lambda: Net(_through_buffer(F.relu), memory=torch.zeros(2, 6, 8)),
        lambda: Net(_through_buffer(F.relu6), memory=torch.zeros(2, 6, 8)),
        normal(2, 6, 8),
        normal(2, 6, 8, scale=100, seed=1),
    )
    yield net(
        "a step that is not shifted in the last place", lambda h, _: h + _shifted(h, 5), lambda h, _: h + _shifted(h, 4),
        shape=(2, 6, 8), scale=1,
    )  # fmt: skip


def _written(name: str, write: Write, one: Act, other: Act) -> Attack:
    return net(name, lambda h, _: h + write(h, one), lambda h, _: h + write(h, other), shape=(2, 6, 8))


def _shifted(y: Tensor, upto: int) -> Tensor:
    z = torch.zeros_like(y)
    z[:, 1 : upto + 1] = y[:, :upto]
    return z


def _through_buffer(act: Act) -> Callable[[Any, Any], Tensor]:
    def function(h: Tensor, module: Any) -> Tensor:
        module.memory.copy_(act(h).detach())
        result: Tensor = h + module.memory
        return result

    return function


def _slice(y: Tensor, act: Act) -> Tensor:
    z = torch.zeros_like(y)
    z[:, 1:] = act(y[:, :-1])
    return z


def _slice_added(y: Tensor, act: Act) -> Tensor:
    z = y.clone()
    z[:, :3] += act(y[:, 3:])
    return z


def _strided(y: Tensor, act: Act) -> Tensor:
    z = torch.zeros_like(y)
    z[..., ::2] = act(y[..., 1::2])
    return z


def _loop(y: Tensor, act: Act) -> Tensor:
    z = torch.zeros_like(y)
    for step in range(y.shape[1]):
        z[:, step] = act(y[:, step] + (z[:, step - 1] if step else 0))
    return z


def _scatter(y: Tensor, act: Act) -> Tensor:
    index = torch.arange(y.shape[1]).flip(0)[None, :, None].expand_as(y)
    z = torch.zeros_like(y)
    z.scatter_(1, index, act(y))
    return z


def _scatter_add(y: Tensor, act: Act) -> Tensor:
    index = (torch.arange(y.shape[1]) // 2)[None, :, None].expand_as(y)
    z = torch.zeros_like(y)
    z.scatter_add_(1, index, act(y))
    return z


def _index_put(y: Tensor, act: Act) -> Tensor:
    z = torch.zeros_like(y)
    z.index_put_((torch.arange(y.shape[0])[:, None], torch.arange(y.shape[1])[None]), act(y))
    return z


def _index_add(y: Tensor, act: Act) -> Tensor:
    z = torch.zeros_like(y)
    z.index_add_(1, torch.arange(y.shape[1]).flip(0), act(y))
    return z


def _index_copy(y: Tensor, act: Act) -> Tensor:
    z = torch.zeros_like(y)
    z.index_copy_(1, torch.arange(y.shape[1]).flip(0), act(y))
    return z


def _masked(y: Tensor, act: Act) -> Tensor:
    z = y.clone()
    keep = torch.arange(y.shape[1]) % 2 == 0
    z[:, keep] = act(y[:, keep])
    return z


def _copied(y: Tensor, act: Act) -> Tensor:
    z = torch.zeros_like(y)
    z.narrow(1, 0, 3).copy_(act(y.narrow(1, 3, 3)))
    return z


def _chunks(y: Tensor, act: Act) -> Tensor:
    z = y.clone()
    for part in z.chunk(2, -1):
        part.copy_(act(part))
    return z


def _unbound(y: Tensor, act: Act) -> Tensor:
    z = y.clone()
    steps = z.unbind(1)
    steps[2].add_(act(steps[1]))
    return z


def _transposed(y: Tensor, act: Act) -> Tensor:
    z = torch.zeros_like(y)
    z.transpose(1, 2)[..., :3] = act(y).transpose(1, 2)[..., :3]
    return z


def _diagonal(y: Tensor, act: Act) -> Tensor:
    z = torch.zeros(y.shape[0], 6, 6, dtype=y.dtype)
    z.diagonal(dim1=1, dim2=2).copy_(act(y.mean(-1)))
    return z @ y


def _out(y: Tensor, act: Act) -> Tensor:
    z = torch.zeros_like(y)
    torch.mul(act(y.detach()), 0.5, out=z)
    return z


_WRITES: dict[str, Write] = {
    "slice assigned": _slice,
    "slice added to": _slice_added,
    "every second number": _strided,
    "loop over steps": _loop,
    "scatter_": _scatter,
    "scatter_add_": _scatter_add,
    "index_put_": _index_put,
    "index_add_": _index_add,
    "index_copy_": _index_copy,
    "masked assignment": _masked,
    "copy_ into a narrow": _copied,
    "copy_ into chunks": _chunks,
    "add_ to an unbound step": _unbound,
    "slice of a transposed view": _transposed,
    "copy_ into the diagonal": _diagonal,
    "out=": _out,
}
