"""Ways of calling: options in combination, of every kind, without numbers, and calls that leave something behind."""

import copy
import enum
from collections import UserDict
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxmap
from fxmap.mapping.proof import Proof

FLOATS = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))


class Called(nn.Module):
    """Two layers; a subclass says how they are called."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 4)

    def inner(self, x: Tensor) -> Tensor:
        return torch.tanh(self.a(x))


def model_of(forward: Callable[..., Any]) -> nn.Module:
    made: nn.Module = type("Made", (Called,), {"forward": forward})()
    return made


def proof_of(one: Callable[..., Any], other: Callable[..., Any], example: Any) -> Proof:
    return fxmap.auto_map(model_of(one), model_of(other), example_inputs=example).proof


def masked(h: Tensor, mask: Tensor | None) -> Tensor:
    return h if mask is None else h * mask[..., None]


def cumulated(h: Tensor, causal: bool) -> Tensor:
    return h.cumsum(1) if causal else h


def _mask_then_switch(m: Any, x: Tensor, mask: Any = None, causal: bool = False) -> Tensor:
    return m.b(cumulated(masked(m.inner(x), mask), causal))


def _switch_then_mask(m: Any, x: Tensor, mask: Any = None, causal: bool = False) -> Tensor:
    return m.b(masked(cumulated(m.inner(x), causal), mask))


def _two_switches(m: Any, x: Tensor, causal: bool = False, turned: bool = False) -> Tensor:
    h = cumulated(m.inner(x), causal)
    return m.b(h.flip(1) if turned else h)


def _two_turned(m: Any, x: Tensor, causal: bool = False, turned: bool = False) -> Tensor:
    h = m.inner(x)
    return m.b(cumulated(h.flip(1) if turned else h, causal))


def _mask_and_word(m: Any, x: Tensor, mask: Any = None, pool: str = "none") -> Tensor:
    h = masked(m.inner(x), mask)
    return m.b(h if pool == "none" else h.mean(1))


def _mask_or_word(m: Any, x: Tensor, mask: Any = None, pool: str = "none") -> Tensor:
    h = masked(m.inner(x), mask)
    count = x.shape[1] if mask is None else mask.sum(1, True)
    return m.b(h if pool == "none" else h.sum(1) / count)


def _two_masks(m: Any, x: Tensor, xm: Any = None, cm: Any = None) -> Tensor:
    return m.b(masked(m.inner(x), xm) + masked(x, cm))


def _one_of_two_masks(m: Any, x: Tensor, xm: Any = None, cm: Any = None) -> Tensor:
    return m.b(masked(m.inner(x), xm) + masked(x, cm if xm is None or cm is None else xm))


def _in_dict(order: bool) -> Callable[..., Tensor]:
    def forward(m: Any, batch: dict[str, Any]) -> Tensor:
        h, mask, causal = m.inner(batch["x"]), batch.get("mask"), bool(batch.get("causal", False))
        h = cumulated(masked(h, mask), causal) if order else masked(cumulated(h, causal), mask)
        return m.b(h)

    return forward


COMBINED: dict[str, tuple[Callable[..., Any], Callable[..., Any], Any]] = {
    "a mask and a switch": (_mask_then_switch, _switch_then_mask, FLOATS),
    "a mask and a switch, given as None and False": (_mask_then_switch, _switch_then_mask, (FLOATS, None, False)),
    "two switches": (_two_switches, _two_turned, FLOATS),
    "a mask and a word": (_mask_and_word, _mask_or_word, FLOATS),
    "two masks": (_two_masks, _one_of_two_masks, FLOATS),
    "a mask and a switch, in a dict": (_in_dict(True), _in_dict(False), ({"x": FLOATS},)),
}


@pytest.mark.parametrize("name", COMBINED)
def test_options_are_run_in_combination(name: str) -> None:
    one, other, example = COMBINED[name]
    refuted = proof_of(one, other, example)
    assert not refuted.ok
    assert ", with" in refuted.reason or "with xm and cm" in refuted.reason
    own = proof_of(one, one, example)
    assert own.ok, own.reason


class Mode(enum.Enum):
    """What a model does."""

    PLAIN = "plain"
    SUMMED = "summed"


@dataclass
class Options:
    """Switches of a call."""

    causal: bool = False


class Pair(NamedTuple):
    """Two options."""

    causal: bool = False
    scale: float = 1.0


OPTIONS, PAIR = Options(), Pair()


def _enumerated(m: Any, x: Tensor, mode: Mode = Mode.PLAIN) -> Any:
    return m.b(cumulated(m.inner(x), mode is Mode.SUMMED))


def _stated(m: Any, x: Tensor, mode: Literal["plain", "of sums"] | None = None) -> Any:
    return m.b(cumulated(m.inner(x), mode == "of sums"))


def _stated_class(m: Any, x: Tensor, options: Options | None = None) -> Any:
    return m.b(cumulated(m.inner(x), options is not None and options.causal))


def _object(m: Any, x: Tensor, options: Any = OPTIONS) -> Any:
    return m.b(cumulated(m.inner(x), options.causal))


def _named_tuple(m: Any, x: Tensor, options: Any = PAIR) -> Any:
    return m.b(cumulated(m.inner(x), options.causal))


def _dict(m: Any, x: Tensor, options: Any = {"causal": False}) -> Any:  # noqa: B006 -- what is tested
    return m.b(cumulated(m.inner(x), options["causal"]))


def _ignoring(m: Any, x: Tensor, mode: Any = None, options: Any = None) -> Any:
    return m.b(m.inner(x))


def _sliced(m: Any, x: Tensor, keep: Any = slice(None)) -> Any:
    return m.b(m.inner(x))[:, keep]


def _ranged(m: Any, x: Tensor, steps: Any = range(1)) -> Any:
    return m.b(m.inner(x) * (1 + sum(steps)))


class Bits(enum.Flag):
    """What a model does, several at once."""

    NONE = 0
    SUMMED = 1
    TWICE = 2


def _bits(m: Any, x: Tensor, bits: Bits = Bits.NONE) -> Any:
    return m.b(cumulated(m.inner(x), Bits.SUMMED in bits) * (2 if Bits.TWICE in bits else 1))


def _one_bit(m: Any, x: Tensor, bits: Bits = Bits.NONE) -> Any:
    return _bits(m, x, bits & Bits.SUMMED or bits)


def _resized(m: Any, x: Tensor, mode: str = "nearest") -> Any:
    return m.b(m.inner(nn.functional.interpolate(x[:, None], size=(5, 8), mode=mode)[:, 0]))


def _resized_as_nearest(m: Any, x: Tensor, mode: str = "nearest") -> Any:
    return _resized(m, x, "nearest" if mode == "bilinear" else mode)


def _skipping(m: Any, x: Tensor, skip: Any = ()) -> Any:
    return m.b(x if 0 in skip else m.inner(x))


TABLE = torch.ones(8)


def _with_table(m: Any, x: Tensor, table: Tensor = TABLE) -> Any:
    return m.b(m.inner(x) * table)


def _layer(m: Any, x: Tensor, layer: int = -1) -> Any:
    return (x, m.inner(x), m.b(m.inner(x)))[layer]


def _array(m: Any, x: Tensor, w: Any = None) -> Any:
    h = m.b(m.inner(x))
    return h if w is None else h * torch.from_numpy(np.asarray(w))[:, None].to(x.dtype)


KINDS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "an enumeration": (_enumerated, lambda m, x, mode=Mode.PLAIN: m.b(m.inner(x))),
    "words that are stated": (_stated, _ignoring),
    "a class that is stated": (_stated_class, _ignoring),
    "an object": (_object, lambda m, x, options=OPTIONS: m.b(m.inner(x))),
    "a named tuple": (_named_tuple, lambda m, x, options=PAIR: m.b(m.inner(x))),
    "a dict": (_dict, lambda m, x, options={"causal": False}: m.b(m.inner(x))),
    "a slice": (_sliced, lambda m, x, keep=slice(None): m.b(m.inner(x))[:, keep.start :]),
    "a range": (_ranged, lambda m, x, steps=range(1): m.b(m.inner(x) * (1 + sum(steps) ** 2))),
    "flags together": (_bits, _one_bit),
    "a word that torch knows": (_resized, _resized_as_nearest),
    "an empty tuple": (_skipping, lambda m, x, skip=(): m.b(m.inner(x))),
    "a tensor": (_with_table, lambda m, x, table=TABLE: _with_table(m, x, table.flip(0))),
    "a place from the end": (_layer, lambda m, x, layer=-1: _layer(m, x, max(layer, -2))),
    "an array": (_array, lambda m, x, w=None: _array(m, x, None if w is None else w[::-1].copy())),
}


@pytest.mark.parametrize("name", KINDS)
def test_options_of_every_kind_are_given_other_values(name: str) -> None:
    one, other = KINDS[name]
    assert not proof_of(one, other, FLOATS).ok
    own = proof_of(one, one, FLOATS)
    assert own.ok, own.reason


GIVEN: dict[str, tuple[Any, Callable[[Any], float], Callable[[Any], float]]] = {
    "a slice": (slice(1, None), lambda v: v.start, lambda v: 1),
    "a range": (range(2), sum, lambda v: sum(v) ** 2),
    "a complex number": (1 + 0j, lambda v: v.real, abs),
    "bytes": (b"abc", len, lambda v: 3),
    "a number of numpy": (np.float32(1), float, lambda v: float(v) ** 2),
    "a number without a sign": (np.uint8(1), float, lambda v: float(v) ** 2),
    "an enumeration": (Mode.PLAIN, lambda v: 1 + (v is Mode.SUMMED), lambda v: 1),
    "a dtype": (torch.float64, lambda v: 1 + (not v.is_floating_point), lambda v: 1),
    "an array": (np.ones(2), lambda v: float(v[0]), lambda v: float(v[-1])),
}


@pytest.mark.parametrize("name", GIVEN)
def test_what_is_given_beside_tensors_is_another_one(name: str) -> None:
    given, one, other = GIVEN[name]
    first, second = (lambda m, x, c, f=f: m.b(m.inner(x) * f(c)) for f in (one, other))
    assert not proof_of(first, second, (FLOATS, given)).ok
    own = proof_of(first, first, (FLOATS, given))
    assert own.ok, own.reason


def test_a_tensor_is_given_where_an_object_holds_none() -> None:
    def forward(m: Any, batch: Any) -> Any:
        return m.b(masked(m.inner(batch.x), batch.mask))

    def negated(m: Any, batch: Any) -> Any:
        return m.b(masked(m.inner(batch.x), None if batch.mask is None else 1 - batch.mask))

    example = (SimpleNamespace(x=FLOATS, mask=None),)
    assert not proof_of(forward, negated, example).ok
    assert proof_of(forward, forward, example).ok


@dataclass
class Inner:
    """Options inside of others."""

    causal: bool = False
    sizes: tuple[int, int] = (1, 2)


@dataclass
class Nested:
    """Options, and a mask that may be None."""

    inner: Inner
    mask: Tensor | None = None


def test_a_mask_and_a_switch_of_one_object_are_run_together() -> None:
    def forward(m: Any, x: Tensor, options: Any) -> Any:
        return m.b(cumulated(masked(m.inner(x), options.mask), options.inner.causal))

    def other(m: Any, x: Tensor, options: Any) -> Any:
        return m.b(masked(cumulated(m.inner(x), options.inner.causal), options.mask))

    assert not proof_of(forward, other, (FLOATS, Nested(Inner()))).ok
    assert proof_of(forward, forward, (FLOATS, Nested(Inner()))).ok


class Closed(UserDict[str, Any]):
    """A batch that takes no other key than those that it has been made with."""

    closed = False

    def __setitem__(self, key: str, value: Any) -> None:
        if self.closed and key not in self.data:
            raise KeyError(key)
        super().__setitem__(key, value)


def test_a_batch_that_refuses_another_key_is_no_reason_against_a_proof() -> None:
    def forward(m: Any, batch: Any) -> Any:
        return m.b(masked(m.inner(batch["x"]), batch.get("mask")))

    batch = Closed(x=FLOATS)
    batch.closed = True
    own = proof_of(forward, forward, (batch,))
    assert own.ok, own.reason


def test_a_key_is_looked_up_in_each_of_several_dicts() -> None:
    def forward(m: Any, parts: Any) -> Any:
        return [m.b(masked(m.inner(part["x"]), part.get("mask"))) for part in parts]

    def of_the_first(m: Any, parts: Any) -> Any:
        return [m.b(masked(m.inner(part["x"]), part["mask"] if "mask" in parts[0] else None)) for part in parts]

    example = ([{"x": FLOATS}, {"x": FLOATS}],)
    assert not proof_of(forward, of_the_first, example).ok
    assert proof_of(forward, forward, example).ok


def test_keywords_that_are_handed_on_are_given() -> None:
    def forward(m: Any, x: Tensor, **kwargs: Any) -> Any:
        return _mask_then_switch(m, x, **kwargs)

    def other(m: Any, x: Tensor, **kwargs: Any) -> Any:
        return _switch_then_mask(m, x, **kwargs)

    assert not proof_of(forward, other, FLOATS).ok
    assert proof_of(forward, forward, FLOATS).ok


def test_what_the_example_has_may_be_none() -> None:
    def forward(m: Any, x: Tensor, y: Any) -> Any:
        return m.b(m.inner(x) + (0 if y is None else y))

    def other(m: Any, x: Tensor, y: Any) -> Any:
        return m.b(m.inner(x) + (1 if y is None else y))

    assert "y=None" in proof_of(forward, other, (FLOATS, FLOATS + 1)).reason
    assert proof_of(forward, forward, (FLOATS, FLOATS + 1)).ok


def test_empty_inputs_are_run() -> None:
    def forward(m: Any, x: Tensor) -> Any:
        return m.b(m.inner(x).sum(0))

    def other(m: Any, x: Tensor) -> Any:
        return m.b(m.inner(x).sum(0)) if len(x) else x.new_zeros(4)

    assert "without a sample" in proof_of(forward, other, FLOATS[:, 0]).reason
    assert proof_of(forward, forward, FLOATS[:, 0]).ok


def test_an_empty_list_is_given() -> None:
    def forward(m: Any, parts: Any) -> Any:
        return m.b(sum((m.inner(part) for part in parts), torch.zeros(8, dtype=m.a.weight.dtype)))

    def other(m: Any, parts: Any) -> Any:
        return forward(m, parts) if parts else torch.zeros(4, dtype=m.a.weight.dtype)

    example = ([FLOATS[0], FLOATS[1]],)
    assert "0 tensors" in proof_of(forward, other, example).reason
    assert proof_of(forward, forward, example).ok


def test_lists_of_several_sizes_are_given() -> None:
    def forward(m: Any, parts: Any) -> Any:
        return torch.stack([m.b(m.inner(part)).sum(0) for part in parts])

    def other(m: Any, parts: Any) -> Any:
        return forward(m, parts) * (1 + (len({part.shape for part in parts}) > 1))

    example = ([FLOATS[0], FLOATS[1]],)
    assert not proof_of(forward, other, example).ok
    assert proof_of(forward, forward, example).ok


class Caching(Called):
    """What a call keeps if it is asked to; a model that has `wrong` reads it in every call."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.kept: Tensor | None = None
        self.wrong = wrong

    def forward(self, x: Tensor, use_cache: bool = False) -> Tensor:
        h = self.inner(x)
        if self.kept is not None and (use_cache or self.wrong) and self.kept.shape == h.shape:
            h = h + self.kept
        self.kept = h.detach() if use_cache else self.kept if self.wrong else None
        return self.b(h)


def test_what_a_call_with_another_option_leaves_is_met_by_the_next_one() -> None:
    proof = fxmap.auto_map(Caching(False), Caching(True), example_inputs=FLOATS).proof
    assert not proof.ok
    assert "after a call with use_cache=True" in proof.reason
    own = Caching(False)
    assert fxmap.auto_map(own, copy.deepcopy(own), example_inputs=FLOATS).proof.ok


def test_hooks_see_whether_an_argument_has_a_name() -> None:
    one, other = model_of(_mask_then_switch), model_of(_mask_then_switch)
    other.register_forward_hook(lambda module, args, output: output if args else -output)
    proof = fxmap.auto_map(one, other, example_inputs=FLOATS).proof
    assert not proof.ok
    assert "by their names" in proof.reason


def test_a_part_of_a_larger_tensor_has_other_numbers_before_it() -> None:
    def forward(m: Any, x: Tensor) -> Any:
        return m.b(m.inner(x))

    def other(m: Any, x: Tensor) -> Any:
        return m.b(m.inner(x.as_strided(x.shape, x.stride(), 0)))

    assert not proof_of(forward, other, FLOATS).ok
