"""Crossed: sizes, values, options and manners of calling, every two of them together.

Runs that change one thing at a time leave out what two things decide together: a window that only `local=True` cuts, and
only in long texts; a bound that only large numbers reach, behind a branch that only large batches take. So there is one plan
of runs, whose factors are the batch, each length and edge, the values of each input, each option with the length and the
values of the tensors that it gives, and the manner of the call; and every two values of two factors are in one run, in a
covering array of strength two (`covering`). Two options are run together without all of these (`together`).

>>> from fxmap.model.inputs import as_inputs
>>> both = (as_inputs(torch.zeros(2, 6, 8, dtype=torch.float64)),) * 2
>>> factors = factors_of(Sampler.of(both, ({}, {})), Shape(3), (Shape(sizes={6: 3}),), [], Named())
>>> [(factor.name, len(factor.levels)) for factor in factors]
[('batch', 3), ('axes of 6', 4), ('argument 0', 11), ('manner', 2)]

Cost: about the product of the two largest numbers of values, in runs of both models on small inputs: here some 65.
Source: as in `covering`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from math import ceil

import torch
from torch import Tensor

from fxmap.prove.calls.covering import Level, Row, covering
from fxmap.prove.calls.held_names import HeldNames
from fxmap.prove.calls.manners import SEED, after, in_other_order
from fxmap.prove.calls.option import Option
from fxmap.prove.code.decision_log import Log
from fxmap.prove.inputs.samples import Both, Role, Sampler
from fxmap.prove.inputs.shapes import EXTENTS, Shape
from fxmap.prove.inputs.value_forms import HIDING, LARGE, Form, forms_like, forms_of

# Batches, and lengths beside the given one: one, an odd one, one more, and more than most windows.
_BATCHES, _CROWD, _LONG, _EDGE = (1, 4, 13), 40, 54, 45
# The most numbers of the inputs of a run.
_MOST = 150_000
# How many rows are made before one is chosen: here are many factors.
_CANDIDATES = 3
# How much the choices hide that hide most.
_MOST_HIDING = 2

Run = Callable[[str, Both, bool, bool], bool]


@dataclass(frozen=True, slots=True)
class Named:
    """What the code of the models names: integers that may be sizes, numbers that may be values, and fills of masks."""

    sizes: Sequence[int] = ()
    numbers: Sequence[float] = ()
    fills: Sequence[float] = ()

    @classmethod
    def of(cls, log: Log, held: HeldNames) -> "Named":
        """Return what decisions compared with, and what code names."""
        sizes = {*(ceil(number) for number in log.sizes), *held.limits}
        return cls(sorted(sizes), [*sorted(log.numbers, key=abs), *held.numbers], held.fills)


@dataclass(frozen=True)
class Choice:
    """One value of a factor: what it changes of a run.

    `own` makes the length, and `like` the values, of the tensors that the option `of` gives. What is `large` may have no
    value in one spelling of a function. The `veil` says how much of other choices it hides: forms of values hide something,
    since clamps saturate; one position, zeros and equal values hide most.
    """

    text: str
    reshape: Callable[[Shape], Shape] | None = None
    form: tuple[int, Form] | None = None
    option: Option | None = None
    of: Option | None = None
    own: Callable[[int], int] | None = None
    like: Form | None = None
    manner: Callable[[Both, Callable[[], Both]], Both] | None = None
    large: bool = False
    veil: int = 0


@dataclass(frozen=True)
class Factor:
    """What is varied, its other values, and the factor's value under which alone it is there."""

    name: str
    levels: Sequence[Choice]
    under: Level | None = None


def crossed(sampler: Sampler, base: Shape, factors: Sequence[Factor], run: Run, limit: int) -> Iterator[tuple[int, int]]:
    """Run factors in combination, up to where every two values of two of them were; yield the pairs met, and those left.

    Args:
        sampler: the inputs.
        base: the shape of the inputs where nothing else is said, which both models accept.
        factors: what is varied.
        run: runs both models on inputs, of which it is told in words, whether an option is in them, and whether they are
            large, and says whether they accept them.
        limit: how many rows there are at most.
    """
    options = {place for place, factor in enumerate(factors) if any(choice.option for choice in factor.levels)}
    under = {place: factor.under for place, factor in enumerate(factors) if factor.under is not None}
    usual = sampler.values(base, SEED)
    rows = 0

    def accepts(row: Row) -> bool:
        nonlocal rows
        rows += 1
        chosen = [factor.levels[level - 1] for factor, level in zip(factors, row, strict=True) if level]
        both = _inputs(sampler, base, usual, chosen, SEED + rows)
        text = ", ".join(choice.text for choice in chosen)
        return both is not None and run(
            text, both, any(choice.option for choice in chosen), any(choice.large for choice in chosen)
        )

    levels = {(place, i): one for place, factor in enumerate(factors) for i, one in enumerate(factor.levels, 1)}
    veils = {level: choice.veil for level, choice in levels.items() if choice.veil}
    counts = [len(factor.levels) for factor in factors]
    yield from islice(
        covering(counts, accepts, under=under, apart=options, veils=veils, candidates=_CANDIDATES, singles=True), limit
    )


def _inputs(sampler: Sampler, base: Shape, usual: Sequence[Tensor], chosen: Sequence[Choice], seed: int) -> Both | None:
    """Return the inputs of a row; None where they are too large, or an option does not go with them."""
    shape = base
    for choice in chosen:
        shape = shape if choice.reshape is None else choice.reshape(shape)
    values = sampler.values(shape, seed)
    if sum(value.numel() for value in values) > _MOST:
        return None

    def drawn(values: Sequence[Tensor]) -> Both:
        changed = list(values)
        for place, form in (choice.form for choice in chosen if choice.form is not None):
            changed[place] = form(changed[place])
        return sampler.both_of(changed)

    both: Both | None = drawn(values)
    for option in (choice.option for choice in chosen if choice.option is not None):
        both = None if both is None else _with_option(both, option, chosen, _extents(usual, values), seed)
    for manner in (choice.manner for choice in chosen if choice.manner is not None):
        both = None if both is None else manner(both, lambda: drawn(sampler.values(shape, seed + SEED)))
    return both


def _extents(usual: Sequence[Tensor], values: Sequence[Tensor]) -> tuple[Mapping[int, int], Mapping[int, int]]:
    """Return what became of the extents of first axes, and of those of all others."""
    pairs = [(one.shape, other.shape) for one, other in zip(usual, values, strict=True) if one.dim()]
    first = {one[0]: other[0] for one, other in pairs if one[0] != other[0]}
    return first, {a: b for one, other in pairs for a, b in zip(one[1:], other[1:], strict=True) if a != b}


def fresh_tensors(both: Both, option: Option) -> list[Tensor]:
    """Return the tensors that an option gives, beside those that are there."""
    changed, known = option.applied(both), {id(value) for value in both[0].flat()}
    return [] if changed is None else [value for value in changed[0].flat() if id(value) not in known]


def _with_option(
    both: Both, option: Option, chosen: Sequence[Choice], extents: tuple[Mapping[int, int], Mapping[int, int]], seed: int
) -> Both | None:
    """Return inputs with an option whose tensors have the extents of the others, and the length and the form of a row."""
    changed, known = option.applied(both), {id(value) for side in both for value in side.flat()}
    if changed is None:
        return None
    its = [choice for choice in chosen if choice.of is option]
    own = next((choice.own for choice in its if choice.own is not None), None)
    like = next((choice.like for choice in its if choice.like is not None), None)
    made: dict[int, Tensor] = {}

    def other(value: Tensor) -> Tensor:
        if id(value) in known:
            return value
        if id(value) not in made:
            drawn = _redrawn(value, _own_extents(value, extents, own), seed + len(made))
            made[id(value)] = drawn if like is None else like(drawn)
        return made[id(value)]

    return changed[0].map(other), changed[1].map(other)


def _own_extents(
    value: Tensor, extents: tuple[Mapping[int, int], Mapping[int, int]], own: Callable[[int], int] | None
) -> list[int]:
    found = [extents[0].get(extent, extents[1].get(extent, extent)) for extent in value.shape]
    axis = min(1, value.dim() - 1)
    if own is not None and axis >= 0:
        found[axis] = own(found[axis])
    return found


def _redrawn(value: Tensor, extents: Sequence[int], seed: int) -> Tensor:
    """Return a tensor of other extents: numbers are drawn, and integers come again and again."""
    if list(value.shape) == list(extents):
        return value
    if value.is_floating_point():
        return torch.randn(extents, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(value.dtype)
    for axis, extent in enumerate(extents):
        value = value.index_select(axis, torch.arange(extent) % max(value.shape[axis], 1))
    return value


# -- the factors ------------------------------------------------------------------------------------------------------


def factors_of(
    sampler: Sampler, base: Shape, accepted: Sequence[Shape], options: Sequence[Option], named: Named
) -> list[Factor]:
    """Return what is varied of the inputs of two models.

    Args:
        sampler: the inputs.
        base: the shape of the inputs where nothing else is said.
        accepted: shapes that both models have accepted: axes that kept their extent in all of them stay as they are.
        options: those that both models accept.
        named: what their code names.
    """
    found = [*_sizes(sampler, base, accepted, named), *_values(sampler, named)]
    both = sampler.draw(base, SEED)
    for name, its in _by_factor(options).items():
        place = len(found)
        found.append(Factor(name, [Choice(option.text, option=option) for option in its]))
        given = [(level, option, fresh_tensors(both, option)) for level, option in enumerate(its, 1)]
        # Of those that are numbers one, and of those that are integers.
        kinds = {item[2][0].is_floating_point(): item for item in reversed(given) if item[2]}
        for level, option, tensors in kinds.values():
            found += _of_given(option, tensors, (place, level), named)
    return [factor for factor in [*found, _manners(sampler)] if factor.levels]


def _by_factor(options: Sequence[Option]) -> dict[str, list[Option]]:
    found: dict[str, dict[object, Option]] = {}
    for option in options:
        if option.factor:
            found.setdefault(option.factor, {}).setdefault(option.kind, option)
    return {name: list(its.values()) for name, its in found.items()}


def _sizes(sampler: Sampler, base: Shape, accepted: Sequence[Shape], named: Named) -> Iterator[Factor]:
    """Yield the batch, the lengths, alone or together where they are equal, and the edges of maps."""
    shapes = [value.shape for value in sampler.values(base, SEED)]
    found = [_batches(named)]
    for extent in sorted({extent for shape in accepted for extent in shape.sizes}):
        found.append(_factor(f"axes of {extent}", _lengths(extent, _LONG, named), partial(_sized, extent)))
    for axes in dict.fromkeys(tuple(shape.axes) for shape in accepted if len(set(shape.axes.values())) == 1):
        place, axis = axes[0]
        lengths = _lengths(shapes[place][axis], _LONG, named)
        found.append(_factor(f"axis {axis} of {sampler.slots[place].name}", lengths, partial(_along, axes)))
    ranks = {len(shape.spatial) for shape in accepted} - {0}
    for rank in ranks:
        edges = base.spatial or tuple(max((slot.example for slot in sampler.slots), key=Tensor.dim).shape[-rank:])
        for k, edge in enumerate(edges):
            lengths = _lengths(edge, _EDGE, named)
            found.append(_factor(f"edge {k}", lengths, partial(_edged, edges, k)))
    for factor in found:
        # A size that changes nothing, such as the batch of inputs that have none, is none.
        moves = [
            choice
            for choice in factor.levels
            if choice.reshape is not None and [value.shape for value in sampler.values(choice.reshape(base), SEED)] != shapes
        ]
        yield replace(factor, levels=moves)


def _batches(named: Named) -> Factor:
    crowd = [number + 1 for number in sorted(named.sizes) if max(_BATCHES) <= number < _CROWD][-1:]
    return _factor("batch", [*_BATCHES, *crowd], _in_batch)


def _lengths(extent: int, long: int, named: Named) -> list[int]:
    """Return one, an odd length, the next one, a long one, and one beyond the largest number that the code names."""
    beyond = [number + 1 for number in sorted(named.sizes) if long <= number < EXTENTS.longest][-1:]
    return [length for length in dict.fromkeys([1, 3 if extent > 3 else 5, extent + 1, long, *beyond]) if length != extent]


def _factor(name: str, lengths: Sequence[int], change: Callable[[int, Shape], Shape]) -> Factor:
    return Factor(name, [Choice(f"{name} {n}", reshape=partial(change, n), veil=_MOST_HIDING * (n == 1)) for n in lengths])


def _in_batch(count: int, shape: Shape) -> Shape:
    return replace(shape, batch=count)


def _sized(extent: int, length: int, shape: Shape) -> Shape:
    return replace(shape, sizes={**shape.sizes, extent: length})


def _along(axes: Sequence[tuple[int, int]], length: int, shape: Shape) -> Shape:
    return replace(shape, axes={**shape.axes, **dict.fromkeys(axes, length)})


def _edged(edges: tuple[int, ...], place: int, edge: int, shape: Shape) -> Shape:
    found = list(shape.spatial or edges)
    found[place] = edge
    return replace(shape, spatial=tuple(found))


def _values(sampler: Sampler, named: Named) -> Iterator[Factor]:
    numbers = [place for place, slot in enumerate(sampler.slots) if slot.role is Role.NUMBERS]
    for place, slot in enumerate(sampler.slots):
        forms = forms_of(slot, named.numbers, named.fills, few=place in numbers[1:])
        choices = [
            Choice(f"{slot.name} {text}", form=(place, form), large=_is_large(form), veil=_veil(text))
            for text, form in forms
        ]
        yield Factor(slot.name, choices)


def _veil(text: str) -> int:
    return _MOST_HIDING if text in HIDING else 1


def _is_large(form: Form) -> bool:
    return float(form(torch.full((2, 2), 2.0, dtype=torch.float64)).abs().max()) > 2 * LARGE


def _of_given(option: Option, tensors: Sequence[Tensor], under: Level, named: Named) -> Iterator[Factor]:
    """Yield the length of what an option gives, beside the one of the inputs, and its values."""
    name = option.given or option.text
    beyond = [number + 1 for number in sorted(named.sizes) if _LONG <= number < EXTENTS.longest][-1:]
    others: list[tuple[str, Callable[[int], int]]] = [("one", lambda _: 1), ("three more", lambda n: n + 3)]
    others += [("twice as many", lambda n: 2 * n + 7), ("many more", lambda n: n + (beyond or [_LONG])[0])]
    lengths = [Choice(f"{text} of {name}", of=option, own=own, veil=_MOST_HIDING * (text == "one")) for text, own in others]
    yield Factor(f"length of {name}", lengths, under)
    forms = forms_like(tensors[0], [*named.numbers, *named.sizes])
    values = [
        Choice(f"{name} {text}", of=option, like=form, large=_is_large(form), veil=_veil(text)) for text, form in forms
    ]
    yield Factor(f"values of {name}", values, under)


def _manners(sampler: Sampler) -> Factor:
    def strided(both: Both, _: Callable[[], Both]) -> Both:
        return both[0].map(in_other_order), both[1].map(in_other_order)

    def second(both: Both, alike: Callable[[], Both]) -> Both:
        return after([alike()], both)

    if not sampler.slots:
        return Factor("manner", [])
    return Factor("manner", [Choice("not contiguous", manner=strided), Choice("in a second call", manner=second)])
