"""Shapes: in which batches, sizes and lengths the inputs of an audit are drawn.

The given shapes are special: a batch of one, a size that is a power of two, two sequences of one length. So batches, sizes
and lengths change, all that are equal together and each alone, in both parities, and to both sides of the numbers that the
models hold. Small inputs come first, since an audit is many runs.

>>> import torch
>>> for title, choices in shapes([torch.zeros(1, 6, dtype=torch.long)], ["indices"], limits=[20]):
...     print(title, [(shape.batch, dict(shape.sizes)) for shape in choices])
values [(4, {}), (None, {})]
length [(2, {6: 3})]
length [(2, {6: 15})]
length [(1, {6: 23}), (1, {6: 20})]
batch [(13, {6: 3}), (13, {}), (5, {6: 3}), (5, {})]
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, permutations, zip_longest
from math import isqrt, lcm

from torch import Tensor

Choices = tuple[str, tuple["Shape", ...]]
# The index of an input, and one of its axes.
Axis = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Shape:
    """A change of the shapes of the inputs, with the scales of their samples.

    Attributes:
        batch: the extent of the first axis of all inputs, if they have one in common.
        sizes: the new extent of every other axis that has a given extent.
        axes: the new extents of single axes.
        spatial: the new extents of the last axes of maps, `b c h w` or `b c d h w`.
        scales: the factors of the samples of a batch, one after the other.
        form: "" for samples of several forms, "unit" for numbers from 0 to 1, "negative" for numbers below 0.
        padded: whether masks may begin with a hole, as on the left of a text.
    """

    batch: int | None = None
    sizes: Mapping[int, int] = field(default_factory=dict)
    axes: Mapping[Axis, int] = field(default_factory=dict)
    spatial: tuple[int, ...] = ()
    scales: tuple[float, ...] = ()
    form: str = ""
    padded: bool = False


@dataclass(frozen=True, slots=True)
class Extents:
    """The constants by which shapes change."""

    # Samples of one batch: as a user's, tiny, large, and larger than most thresholds that code has.
    scales: tuple[float, ...] = (1.0, 1e-3, 30.0, 1000.0)
    # Where these leave no numbers, as an exponential does.
    milder: tuple[float, ...] = (1.0, 1e-3, 3.0, 8.0)
    # Two samples alone, where one has so many numbers.
    few: tuple[float, ...] = (1.0, 1000.0)
    large: int = 76_800
    # Edges of maps that are tried before the given one; all draws of larger maps begin with the second.
    small_maps: tuple[int, ...] = (48, 64, 96)
    # Lengths that are tried before a longer one that was given.
    small_length: int = 12
    # Their length in a large batch, where what counts is the batch.
    shortest: int = 5
    # Other sizes of maps, axis by axis: above and below, and odd.
    factors: tuple[tuple[float, float, float], ...] = ((1.3, 1.12, 1.2), (0.8, 0.66, 0.7))
    # The least number that may be the area of a map.
    least_area: int = 9
    # The longest sequence that is run, and how many limits of the models are tried, the largest first.
    longest: int = 300
    limits: int = 12
    # Batches larger than most that code counts up to.
    batches: tuple[int, ...] = (13, 5)
    # How many single axes are changed.
    axes: int = 6


EXTENTS = Extents()


def shapes(
    examples: Sequence[Tensor],
    roles: Sequence[str],
    limits: Sequence[int],
    *,
    sized: bool = False,
    longest: int = EXTENTS.longest,
) -> Iterator[Choices]:
    """Yield what to run: a title, and shapes of which the first that both models accept counts.

    Args:
        examples: the tensors of the source's inputs.
        roles: what the values of each mean: "numbers", "mask", "indices" or "integers".
        limits: numbers that the models hold, such as windows and numbers of positions: lengths beyond them are tried.
        sized: keep the size of maps.
        longest: the longest sequence.
    """
    if not examples:
        return
    main = largest(examples)
    numbers = has_reals(main)
    is_map = numbers and main.dim() > 3
    yield "values", padded(values_of(main, "numbers" in roles, is_map and not sized, numbers), roles)
    if is_map and not sized:
        yield from _maps(tuple(main.shape[2:]), limits)
        if main.dim() > 4:
            yield from single_axes([(place_of(main, examples), axis) for axis in (1, 2)], examples)
    elif not is_map:
        for extent in dict.fromkeys(main.shape[1:]):
            yield from lengths_of(extent, limits, longest, batch=2 if extent <= 2 * EXTENTS.small_length else 1)
        yield from single_axes(shared_axes(examples, roles), examples)
    if main.numel() // max(main.shape[0] if main.dim() else 1, 1) * max(EXTENTS.batches) <= EXTENTS.large:
        short = {main.shape[1]: EXTENTS.shortest} if _is_long(main, numbers) else {}
        sizes = [short] if numbers or main.dim() != 2 or short else [{main.shape[1]: _short(main.shape[1])[0]}, {}]
        scales = (1.0,) if numbers else ()
        yield "batch", tuple(Shape(batch, sizes=size, scales=scales) for batch in EXTENTS.batches for size in sizes)


def largest(examples: Sequence[Tensor]) -> Tensor:
    """Return the tensor of the most axes, and of these the largest: its extents are those that are changed."""
    return max(examples, key=lambda tensor: (tensor.dim(), tensor.numel()))


def batch_of(examples: Sequence[Tensor]) -> int | None:
    """Return the extent of the first axis of the largest tensor, if it is that of all, or of several samples.

    What has another first axis, such as a table of positions for all samples, is not in a batch.
    """
    extents = {tensor.shape[0] for tensor in examples if tensor.dim()}
    if len(extents) < 2:
        return next(iter(extents), None)
    main = largest(examples)
    return main.shape[0] if main.dim() > 1 else None


def has_reals(tensor: Tensor) -> bool:
    """Whether a tensor holds real or complex numbers, and no integers."""
    return tensor.is_floating_point() or tensor.is_complex()


def padded(shapes: Sequence[Shape], roles: Sequence[str]) -> tuple[Shape, ...]:
    """Return shapes for the first draw: where there is a mask, with rows that begin with holes, then without."""
    return tuple(replace(shape, padded=pad) for pad in ((True, False) if "mask" in roles else (False,)) for shape in shapes)


def place_of(tensor: Tensor, examples: Sequence[Tensor]) -> int:
    """Return where a tensor stands among others; `index` would compare their numbers, which may have other shapes."""
    return next(place for place, example in enumerate(examples) if example is tensor)


def values_of(main: Tensor, scaled: bool, resized: bool, numbers: bool) -> list[Shape]:
    """Return the shapes for the first draw: small maps and short sequences, then the given shape, in several samples."""
    many = main.numel() // max(main.shape[0] if main.dim() else 1, 1) > EXTENTS.large
    scales = EXTENTS.scales if scaled else ()
    few = (EXTENTS.few if many else EXTENTS.scales) if scaled else ()
    batch = len(EXTENTS.scales)
    edges = [edge for edge in EXTENTS.small_maps if resized and edge < min(main.shape[2:])]
    found = [Shape(batch, spatial=(edge,) * (main.dim() - 2), scales=scales) for edge in edges]
    if _is_long(main, numbers):
        found.append(Shape(batch, sizes={main.shape[1]: EXTENTS.small_length}, scales=scales))
    found += [Shape(2 if many else batch, scales=few), Shape(scales=few)]
    return found + ([replace(shape, scales=EXTENTS.milder) for shape in found] if scaled else [])


def _is_long(main: Tensor, numbers: bool) -> bool:
    """Whether an input is a text that is longer than what most draws need."""
    return not numbers and main.dim() == 2 and main.shape[1] > 2 * EXTENTS.small_length


def _maps(edges: tuple[int, ...], limits: Sequence[int]) -> Iterator[Choices]:
    """Yield maps of odd sizes, of another multiple of 32, and on the other side of the limits of the models."""
    yield from unlike_maps(edges)
    yield from below_limits(edges, limits)
    yield from beyond_limits(edges, limits)


def unlike_maps(edges: tuple[int, ...]) -> Iterator[Choices]:
    """Yield a larger and a smaller map of odd sizes, and one of another multiple of 32."""
    small = (EXTENTS.small_maps[1],) * len(edges)
    bases = [small, edges] if min(edges) > 2 * small[0] else [edges]
    for factors in EXTENTS.factors:
        odd = [tuple(_odd(edge * by) for edge, by in zip(base, factors, strict=False)) for base in bases]
        yield "size", tuple(Shape(1 if index else 2, spatial=base) for index, base in enumerate(odd))
    yield "size", tuple(Shape(1, spatial=tuple(32 * (e // 32 + i + 1) for i, e in enumerate(base))) for base in bases)


def below_limits(edges: Sequence[int], limits: Sequence[int]) -> Iterator[Choices]:
    """Yield a map that is smaller than the smallest limit, if this is smaller than the given map."""
    below = sorted(limit for limit in limits if 8 < limit < min(edges))
    if below:
        yield "size", tuple(Shape(1, spatial=(edge,) * len(edges)) for edge in (below[0] - 1, below[0] // 32 * 32) if edge)


def beyond_limits(edges: Sequence[int], limits: Sequence[int]) -> Iterator[Choices]:
    """Yield a map that is larger than the largest limit, if this is larger than the given map and not too large to run."""
    beyond = sorted(limit for limit in limits if max(edges) < limit <= EXTENTS.longest)
    if beyond:
        yield "size", tuple(Shape(1, spatial=(edge,) * len(edges)) for edge in (beyond[-1] + 1, beyond[-1] // 32 * 32 + 32))


def lengths_of(length: int, limits: Sequence[int], longest: int, batch: int) -> Iterator[Choices]:
    """Yield shorter and longer sequences, and such as go beyond the limits of the models."""
    yield "length", tuple(Shape(batch, sizes={length: extent}) for extent in _short(length))
    longer = {limit + more for limit in limits for more in (0, 3)}
    beyond = sorted((extent for extent in longer if 2 * length < extent <= longest), reverse=True)
    if length <= EXTENTS.longest // 3 and not (beyond and batch == 1):
        # Of the other parity than the given one, since the shorter one is odd.
        yield "length", (Shape(batch, sizes={length: 2 * length + (4 if length % 2 else 3)}),)
    if beyond:
        yield "length", tuple(Shape(1, sizes={length: extent}) for extent in beyond[: EXTENTS.limits])


def more_shapes(
    examples: Sequence[Tensor], numbers: Sequence[int], accepted: Sequence[Shape], longest: int = EXTENTS.longest
) -> Iterator[Shape]:
    """Yield further sizes: those that code compares with, and small, round, narrow and wide ones.

    Args:
        examples: the tensors of the source's inputs.
        numbers: those that sizes are compared with.
        accepted: shapes that both models have accepted: axes that kept their extent in all of them stay as they are.
        longest: the longest sequence.
    """
    around = [number + by for number in numbers for by in (0, 1, -1) if number + by > 0]
    main = largest(examples)
    if any(shape.spatial for shape in accepted):
        columns = [*_more_maps(tuple(main.shape[2:]), around, numbers, longest), _layouts(place_of(main, examples), main)]
        yield from (shape for row in zip_longest(*columns) for shape in row if shape is not None)
    moved = {extent for shape in accepted for extent in shape.sizes}
    groups = dict.fromkeys(tuple(shape.axes) for shape in accepted if len(set(shape.axes.values())) == 1)
    own = [extent for tensor in examples for extent in tensor.shape[1:]]
    # Code may compare with a product of extents.
    row = max(1, main[0].numel() // max(main.shape[1], 1)) if main.dim() > 1 else 1
    products = [
        number // row + 1 for number in numbers if main.dim() > 1 and number > 4 * row and number // row > main.shape[1]
    ]
    pieces = [by * number + 1 for number in numbers for by in (2, 1)]
    lengths = dict.fromkeys(n for n in (_LONG, *around, _LONGER, *products, *own, *pieces, *_ROUND) if n <= longest)
    crowd = longest if longest > EXTENTS.longest else _CROWD
    # Code may take samples in groups, of which there are as many as a number divides.
    multiples = [lcm(*pair) for pair in combinations([number for number in numbers if 2 < number <= 12][:5], 2)]
    batches = dict.fromkeys(n for n in (3, *around, *multiples, 6, 2, 1, 8, 0, 9, 16, 7, 10, 12) if n <= crowd)
    columns = [[Shape(1, sizes={extent: length}) for length in lengths if length != extent] for extent in sorted(moved)]
    columns += [[Shape(1, axes=dict.fromkeys(group, length)) for length in lengths] for group in groups]
    columns.append([Shape(batch) for batch in batches])
    columns.append([Shape(n, sizes={extent: n}) for n in (2, 5, 3, 1) for extent in sorted(moved)])
    yield from (shape for row in zip_longest(*columns) for shape in row if shape is not None)


def _more_maps(own: tuple[int, ...], around: Sequence[int], numbers: Sequence[int], longest: int) -> Iterator[list[Shape]]:
    """Yield narrow and wide maps, then square ones, up to the numbers that code compares an edge or an area with."""
    rank = len(own)
    edges = dict.fromkeys((*around, *(round(number**0.5) + 1 for number in numbers if number > 100)))
    few = (3, 5, 1, 2, 7, 8, 14, 16, 28, 10, 20, 32, 100)
    yield [Shape(1, spatial=(edge,) * rank) for edge in dict.fromkeys((*edges, *few)) if edge <= min(longest, _WIDEST)]
    if rank == 2:
        alike = of_one_area(own) if numbers else []
        thin = [*alike[:1], (24, 96), (93, 21), (5, 40), *alike[1:], (40, 4), (3, 9)]
        thin += [pair for number in numbers if 8 <= number <= longest**2 for pair in _of_area(number)]
        thin += [pair for edge in edges if edge <= 64 for pair in ((edge, 2 * edge + 3), (2 * edge + 3, edge))]
        thin += [pair for edge in edges if 64 < edge <= longest for pair in ((16, edge), (edge, 16))]
        thin += [
            (by * edge, by * other)
            for edge, other in permutations([number for number in numbers if 2 < number <= 20][:4], 2)
            for by in (-(-16 // edge),)
        ]
        yield [Shape(1, spatial=pair) for pair in thin]


def of_one_area(edges: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return maps of the area of a given one, with other edges: code may compare an area alone, or both edges.

    Edges are halved and doubled, so that they stay multiples of what they were multiples of.

    >>> of_one_area((32, 32))
    [(16, 64), (64, 16), (8, 128)]
    """
    height, width = edges
    found = [(height // by, width * by) for by in (2, 4) if height % by == 0]
    turned = [(height * 2, width // 2)] if width % 2 == 0 else []
    return [*found[:1], *turned, *found[1:]]


def _of_area(area: int) -> list[tuple[int, int]]:
    """Return the most square map of an area that is no square, and the same on its side.

    >>> _of_area(256), _of_area(7)
    ([(8, 32), (32, 8)], [(1, 7), (7, 1)])
    """
    edge = max(edge for edge in range(1, isqrt(area) + 1) if area % edge == 0 and edge * edge != area)
    return [(edge, area // edge), (area // edge, edge)]


def _layouts(place: int, example: Tensor) -> list[Shape]:
    """Return other numbers of channels, and the channels behind the map."""
    last = dict(enumerate((*example.shape[2:], example.shape[1]), start=1))
    channels = [Shape(2, axes={(place, 1): count}) for count in (1, 4, 3) if count != example.shape[1]]
    return [*channels, Shape(2, axes={(place, axis): extent for axis, extent in last.items()})]


# Lengths that code asks for: divisible by small numbers, powers of two, short ones.
_ROUND = (1, 2, 8, 10, 3, 16, 20, 4, 5, 6, 32, 64, 100, 12, 14, 15, 24, 30, 128, 256, 40, 50, 60)
# Longer than most cuts that code makes without a comparison.
_LONG, _LONGER = 500, 1030
# The largest map and batch among these.
_WIDEST, _CROWD = 640, 40


def shared_axes(examples: Sequence[Tensor], roles: Sequence[str]) -> list[Axis]:
    """Return the axes whose extent another axis has as well, so that they have changed together alone.

    The length of a mask is that of something else, and does not change alone.
    """
    places = [place for place, role in enumerate(roles) if role != "mask"]
    axes = [(place, axis) for place in places for axis in range(1, examples[place].dim())]
    extents = [examples[place].shape[axis] for place, axis in axes]
    return [axis for axis, extent in zip(axes, extents, strict=True) if extents.count(extent) > 1]


def single_axes(axes: Sequence[Axis], examples: Sequence[Tensor]) -> Iterator[Choices]:
    """Yield shorter and longer extents of one axis alone."""
    for place, axis in axes[: EXTENTS.axes]:
        extent = examples[place].shape[axis]
        yield "length", (Shape(2, axes={(place, axis): _shorter(extent)}),)
        yield "length", (Shape(2, axes={(place, axis): extent + 3}),)


def _short(length: int) -> tuple[int, ...]:
    """Return the shorter lengths to try, the shortest first."""
    return (_shorter(length),) if length < EXTENTS.small_length else (_shorter(length // 2), _shorter(length))


def _shorter(length: int) -> int:
    """Return two thirds of a length or a little less, and odd.

    >>> [_shorter(length) for length in (2, 5, 12, 64)]
    [1, 3, 7, 41]
    """
    return max(1, (2 * length // 3 - 1) | 1)


def _odd(extent: float) -> int:
    return max(1, round(extent)) | 1
