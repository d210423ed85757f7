"""Attacks by code that no run reached: branches on options, texts and cases, and selections without a branch."""

import enum
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.proof.attacks.attack import Attack, Draw, normal

_ROWS = normal(2, 8)


class Mode(enum.Enum):
    """How a model may be asked to compute."""

    PLAIN = 1
    ACTIVE = 2


class _Chosen(nn.Module):
    """A layer, and an activation that follows where the condition holds."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.a, self.act, self.calls, self.last = nn.Linear(8, 4), act, 0, -1


def _chosen(condition: Callable[..., Any]) -> type[_Chosen]:
    """Return a class whose forward takes what the condition takes, behind the module."""

    class Chosen(_Chosen):
        def forward(self, x: Any, *options: Any) -> Any:
            """Compute (b, 4) of (b, 8)."""
            h = self.a(x.to(self.a.weight.dtype))
            return self.act(h) if condition(self, x, *options) else h

    return Chosen


def _matched(m: Any, x: Any, mode: Any) -> bool:
    match mode:
        case ("a", "b"):
            return True
        case {"kind": "other"}:
            return True
        case "third":
            return True
    return False


def _with(value: Any, seed: int = 0) -> Draw:
    return lambda: (*normal(2, 8, seed=seed)(), value)


_CONDITIONS: list[tuple[str, Callable[..., Any], Draw, Draw]] = [
    ("size", lambda m, x, o: o["size"] == [640, 480], _with({"size": [3, 5, 7]}), _with({"size": [640, 480]})),
    ("lengths in turn", lambda m, x, n: n == [57, 58], _with([2, 3]), _with([57, 58])),
    ("two lengths", lambda m, x, n: n[0] == 57 and n[1] == 58, _with([2, 3]), _with([57, 58])),
    ("number far away", lambda m, x, n: n > 12345.5, _with(2.0), _with(20000.0)),
    ("member", lambda m, x, mode: mode is Mode.ACTIVE, _with(Mode.PLAIN), _with(Mode.ACTIVE)),
    ("case of a tuple", _matched, _with("plain"), _with(("a", "b"))),
    ("case of a dict", _matched, _with("plain"), _with({"kind": "other"})),
    (
        "word with a sign",
        lambda m, x, o: o["mode"] == "self-attention",
        _with({"mode": "no"}),
        _with({"mode": "self-attention"}),
    ),
    ("end of a word", lambda m, x, word: word.endswith("_large"), _with("small"), _with("net_large")),
    ("text", lambda m, x: f"{float(x.max()):.2f}" == "47.11", _ROWS, lambda: (torch.full((2, 8), 47.11),)),
]


def _is_far(n: float) -> bool:
    return f"{n:.2f}".startswith("77.53")


def _catching(m: _Chosen, h: Any, o: Any) -> Any:
    try:
        o["name"].encode("ascii")
    except UnicodeError:
        return m.act(h)
    return h


def _suppressing(m: _Chosen, h: Any, o: Any) -> Any:
    made = m.act(h)
    with suppress(UnicodeError):
        o["name"].encode("ascii")
        made = h
    return made


def _turning(m: _Chosen, h: Any, n: Any) -> Any:
    for _ in range(int(_is_far(n))):
        h = m.act(h)
    return h


_FAR, _NAMED = (_with(2.0), _with(77.53)), (_with({"name": "first"}), _with({"name": "\u00e9"}))
# What follows the layer, selected without a branch.
_SELECTIONS: list[tuple[str, Callable[..., Any], tuple[Draw, Draw]]] = [
    ("dict of functions", lambda m, h, n: {True: m.act, False: nn.Identity()}[_is_far(n)](h), _FAR),
    ("list of functions", lambda m, h, n: [nn.Identity(), m.act][int(_is_far(n))](h), _FAR),
    ("attribute by its name", lambda m, h, n: getattr(m, ("none", "act")[_is_far(n)])(h), _FAR),
    ("module by its name", lambda m, h, n: m.acts[("none", "act")[_is_far(n)]](h), _FAR),
    ("get", lambda m, h, n: {"77.53 m": m.act}.get(f"{n:.2f} m", nn.Identity())(h), _FAR),
    ("product", lambda m, h, n: h + m.act(h) * _is_far(n), _FAR),
    ("turns", _turning, _FAR),
    ("exception", _catching, _NAMED),
    ("exception that is suppressed", _suppressing, _NAMED),
]


class _Selected(_Chosen):
    def __init__(self, act: nn.Module, selects: Callable[..., Any]) -> None:
        super().__init__(act)
        self.selects, self.none = selects, nn.Identity()
        self.acts = nn.ModuleDict({"none": self.none, "act": act})

    def forward(self, x: Any, *options: Any) -> Any:
        """Compute (b, 4) of (b, 8)."""
        return self.selects(self, self.a(x), *options)


def _never(m: Any, x: Any, *options: Any) -> bool:
    return False


class _Plain(_Chosen):
    def forward(self, x: Any, *options: Any) -> Any:
        """Compute (b, 4) of (b, 8)."""
        return self.a(x.to(self.a.weight.dtype))


def attacks() -> Iterator[Attack]:
    """Yield two activations, of which each is called behind a branch alone, or one, behind a branch of one model alone."""
    for name, condition, example, probe in _CONDITIONS:
        kind = _chosen(condition)
        yield Attack(f"{name}: ReLU against Tanh", partial(kind, nn.ReLU()), partial(kind, nn.Tanh()), example, probe)
        others = {"another condition": _chosen(_never), "no branch": _Plain}
        for text, other in others.items():
            yield Attack(f"{name}: {text}", partial(kind, nn.Tanh()), partial(other, nn.Tanh()), example, probe)
    for name, selects, (example, probe) in _SELECTIONS:
        one, same = partial(_Selected, nn.ReLU(), selects), partial(_Selected, nn.Tanh(), selects)
        yield Attack(f"{name}: ReLU against Tanh", one, same, example, probe)
        yield Attack(f"{name}: no choice", same, partial(_Plain, nn.Tanh()), example, probe)
