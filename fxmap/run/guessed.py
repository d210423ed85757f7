"""Guessed inputs: tensors that a model without a graph may accept, from its configuration, first layers and signature.

A layer reads rows of its width, maps with its channels, or numbers below the rows of its table; a width of 3 p p may be a
patch of p by p of an image; columns of numbers may index a table each. Where no layer is known, the extents of the first
tensors are widths.

Nothing is run here. Whoever asks runs the models on one guess after another, within a budget, and takes the first that all
of them accept: a wrong guess costs an exception.
"""

import inspect
import math
from collections.abc import Callable, Iterator
from itertools import islice, product
from typing import Any

import torch
from torch import Tensor, nn

from fxmap.model.inputs import Inputs, size_of
from fxmap.model.restoring import let_through

_Shape = tuple[int, ...]
# What further arguments of one shape of the first one are tried at the most.
_TRIES = 12
# The most shapes of the first one that are tried.
_SHAPES = 60


def guess_inputs(*models: nn.Module) -> Iterator[Inputs]:
    """Yield inputs that all of the models may accept, likelier ones first.

    The first argument has the shape that a configuration declares or the first layer reads. Each further argument that a
    model requires is one number for each sample (a timestep, a length, a label), ids, a mask, another tensor like the first,
    or pairs of rows (edges): its name says which is tried first, and all are tried.

    >>> class Timed(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.conv = nn.Conv2d(3, 4, 3)
    ...     def forward(self, sample, timestep):
    ...         return self.conv(sample) * timestep[:, None, None, None]
    >>> [tuple(value.shape) for value in next(guess_inputs(Timed())).args]
    [(2, 3, 32, 32), (2,)]
    """
    further = _further(*models)
    shapes: dict[_Shape, int | None] = {}
    for read in (_configured, _first_layers, _patches, _first_tensors, _lengths):
        for model in models:
            for shape, high in read(model):
                shapes.setdefault(shape, high)
    columns = max(len(_tables(model)) for model in models)
    for shape, high in islice(_of_nodes(shapes) if any("edge" in name for name in further) else shapes.items(), _SHAPES):
        generator = torch.Generator().manual_seed(0)
        # Numbers for each sample tell something with two samples alone.
        first = draw((max(2, shape[0]), *shape[1:]) if further else shape, high, generator)
        choices = [[guess(first, generator) for guess in _by_name(name, columns)] for name in further]
        for rest in islice(product(*choices), _TRIES):
            yield Inputs((first, *rest), {}, True, size_of(first))
    yield from _with_another(shapes, models)


def _with_another(shapes: dict[_Shape, int | None], models: tuple[nn.Module, ...]) -> Iterator[Inputs]:
    """Yield a first tensor with what models name as optional and may need: ids of a decoder, or an image beside ids."""
    names = set.intersection(*({name for name, _ in _positional(model)} for model in models))
    parts = (_told(_told(model, "config"), "vision_config") for model in models)
    images = dict.fromkeys(shape for part in parts if part is not None for shape, _ in _declared(part))
    rows = min((count for model in models for count in _tables(model)), default=2)
    for shape, high in shapes.items():
        generator = torch.Generator().manual_seed(0)
        first = draw(shape, high, generator)
        for name in sorted(names):
            if name.startswith("decoder_") and name.endswith("ids"):
                yield Inputs((first,), {name: draw((shape[0], _DECODED), high or rows, generator)}, True, size_of(first))
            elif name.startswith(("pixel", "image")) and high is not None:
                drawn = (draw((shape[0], *image[1:]), None, generator) for image in images)
                yield from (Inputs((first,), {name: image}, True, size_of(first)) for image in drawn)


def draw(shape: _Shape, high: int | None, generator: torch.Generator) -> Tensor:
    """Draw normal numbers, or integers below `high`."""
    if high is None:
        return torch.randn(shape, generator=generator, dtype=torch.float32)
    return torch.randint(0, high, shape, generator=generator)


def _configured(model: nn.Module) -> Iterator[tuple[_Shape, int | None]]:
    """Yield the input shapes of images that a model or its configuration declares."""
    for holder in (model, _told(model, "config"), _told(model, "patch_embed")):
        yield from _declared(holder)


def _declared(holder: object) -> Iterator[tuple[_Shape, int | None]]:
    """Yield the shape of an image that a model or a configuration declares."""
    size: Any = _first_told(holder, ("image_size", "img_size", "sample_size"), int | tuple | list)
    if isinstance(size, int):
        size = (size, size)
    channels = _first_told(holder, ("num_channels", "in_channels", "in_chans"), int)
    shape = 1, channels if isinstance(channels, int) and channels > 0 else 3, *(size or ())
    if len(shape) == 4 and all(isinstance(part, int) and part > 0 for part in shape) and math.prod(shape) <= _MOST:
        yield shape, None


# How many ids a decoder is given.
_DECODED = 7
# An image that a configuration declares has at most so many numbers.
_MOST = 2**26


def _told(holder: object, name: str) -> Any:
    """Return an attribute; None where there is none, or where the user's code raises instead."""
    try:
        return getattr(holder, name, None)
    except Exception as error:
        let_through(error)
        return None


def _first_told(holder: object, names: tuple[str, ...], kind: Any) -> Any:
    """Return the first attribute of these names that is of a kind; None where there is none."""
    return next((told for name in names if isinstance(told := _told(holder, name), kind)), None)


def _first_layers(model: nn.Module) -> Iterator[tuple[_Shape, int | None]]:
    """Yield what the first layer of each sort reads: maps, ids, rows."""
    seen = set[str]()
    for module in model.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and "map" not in seen:
            seen.add("map")
            dims = len(module.kernel_size)
            sizes = _sizes(model, dims)
            yield from (((1, module.in_channels, *[size] * dims), None) for size in sizes)
            if module.in_channels == dims == 1:
                yield from (((2, size), None) for size in sizes[:3])
        elif isinstance(module, nn.Embedding) and "ids" not in seen:
            seen.add("ids")
            yield (2, 12), module.num_embeddings
            if len(tables := _tables(model)) > 1:
                yield (2, len(tables)), min(tables)
        elif (width := _width(module)) and "rows" not in seen:
            seen.add("rows")
            yield from (((2, 12, width), None), ((2, width), None))


def _width(module: nn.Module) -> int:
    """Return the width of the rows that a layer reads, torch's own or another library's; 0 where it is none."""
    width = _first_told(module, ("in_features", "in_channels"), int)
    return width if width and any(tensor.dim() == 2 for tensor in module.parameters()) and width > 0 else 0


def _tables(model: nn.Module) -> list[int]:
    return [module.num_embeddings for module in model.modules() if isinstance(module, nn.Embedding)]


# A volume of 128 has as many numbers as an image of 1448; a waveform is long.
_EXTENTS = {1: (32, 64, 128, 224, 384, 1024, 4096, 16000), 2: (32, 64, 128, 224, 256, 384), 3: (16, 24, 32, 48, 64)}
# What is tried first has no more positions along an axis than this.
_ENOUGH = {1: 4096, 2: 128, 3: 32}


def _sizes(model: nn.Module, dims: int) -> list[int]:
    """Return extents of maps to try: first the smallest of which the last map is larger than every kernel, if not too large.

    Layers one behind another multiply their strides; those of kernel 1 stand beside others, and kernels of patches meet
    no border.
    """
    stride, kernel = 1, 1
    for module in model.modules():
        if isinstance(module, _RESIZING):
            own, step, wide = (_extent(getattr(module, name)) for name in ("kernel_size", "stride", "dilation"))
            stride *= step if own > 1 else 1
            kernel = max(kernel, wide * (own - 1) + 1 if own > step else 1)
    least = min(stride * (kernel + 1), _ENOUGH[dims])
    return sorted(_EXTENTS[dims], key=lambda size: (size < least, size if size >= least else -size))


def _extent(value: Any) -> int:
    """Return the largest extent of a window or a step, which may be one number for all axes."""
    return max(value) if isinstance(value, tuple) else value if isinstance(value, int) else 1


_RESIZING = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.MaxPool1d | nn.MaxPool2d | nn.MaxPool3d


def _patches(model: nn.Module) -> Iterator[tuple[_Shape, int | None]]:
    """Yield images whose patches have the width of the first rows, by the positions that tensors of the model are for."""
    width = next(filter(None, map(_width, model.modules())), 0)
    held = [value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor)]
    extents = {extent for tensor in (*model.parameters(), *model.buffers(), *held) for extent in tensor.shape}
    for channels in (3, 1, 4):
        patch = math.isqrt(width // channels)
        if patch > 1 and channels * patch**2 == width:
            counts = [n for n in (4, 2, 8, 7, 14, 16, 3) if n * n in extents or n * n + 1 in extents]
            yield from (((1, channels, n * patch, n * patch), None) for n in counts or (4,))


def _first_tensors(model: nn.Module) -> Iterator[tuple[_Shape, int | None]]:
    """Yield rows, and maps, of the extents of the first weights, whichever of their axes it is that reads."""
    weights = [tensor for tensor in model.parameters() if tensor.dim() in (2, 4)][:2]
    for weight in weights:
        if weight.dim() == 4:
            inner = dict.fromkeys((weight.shape[1], weight.shape[2]))
            yield from ((shape, None) for n in inner for shape in ((1, n, 32, 32), (1, 32, 32, n)))
        else:
            widths = dict.fromkeys(reversed(weight.shape))
            yield from ((shape, None) for n in widths for shape in ((2, 12, n), (2, n)))


def _lengths(model: nn.Module) -> Iterator[tuple[_Shape, int | None]]:
    """Yield rows of other lengths and widths, maps one after another in time: what tensors of a fixed length may meet.

    A matrix over positions has their number as an extent, and so does one over all positions of all channels, as a multiple.
    A layer that reads a state beside the input is wider than that.
    """
    layer = next((module for module in model.modules() if _width(module) or isinstance(module, nn.Conv2d)), None)
    if layer is None:
        return
    width = layer.in_channels if isinstance(layer, nn.Conv2d) else _width(layer)
    extents = dict.fromkeys(extent for tensor in model.parameters() for extent in tensor.shape if 1 < extent < _LONG)
    multiples = dict.fromkeys(n // m for n in extents for m in extents if n % m == 0 and n > m)
    widths = [width, *(width - extent for extent in extents if extent < width)][:4]
    if isinstance(layer, nn.Conv2d):
        yield from (((2, 3, channels, 16, 16), None) for channels in widths)
        return
    lengths = [n for n in dict.fromkeys((*extents, *multiples)) if n != 12][:8]
    yield from (((2, length, width), None) for length in lengths)
    yield from (((2, 12, channels), None) for channels in widths[1:])


# A longer sequence than this is no likely guess.
_LONG = 300


def _of_nodes(shapes: dict[_Shape, int | None]) -> Iterator[tuple[_Shape, int | None]]:
    """Yield rows of nodes first, more of them than two, and no batch."""
    yield from (((7, shape[-1]), high) for shape, high in shapes.items() if len(shape) == 2 and high is None)
    yield from shapes.items()


def _further(*models: nn.Module) -> list[str]:
    """Return the names of the arguments behind the first that a model requires, if all of the models take as many."""
    signatures = [_positional(model) for model in models]
    longest = max(([name for name, needed in one if needed] for one in signatures), key=len, default=[])
    return longest[1:] if all(len(one) >= len(longest) for one in signatures) else []


def _positional(model: nn.Module) -> list[tuple[str, bool]]:
    """Return the names of the positional arguments of forward, each with whether it has no default."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):  # code without a signature
        return []
    kinds = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    return [(one.name, one.default is inspect.Parameter.empty) for one in parameters if one.kind in kinds]


_Guess = Callable[[Tensor, torch.Generator], Tensor]


def _numbers(first: Tensor, generator: torch.Generator) -> Tensor:
    """Return one whole number for each sample, which may be a length: that of the first tensor, and a smaller one."""
    length = first.shape[-1] if first.ndim != 3 else first.shape[1]
    return torch.linspace(length, max(1, length - 3), first.shape[0]).long()


def _ids(first: Tensor, generator: torch.Generator) -> Tensor:
    """Draw ids for each sample, small ones, since the table that they index is not known."""
    return torch.randint(0, 2, (first.shape[0], 12), generator=generator)


def _mask(first: Tensor, generator: torch.Generator) -> Tensor:
    """Return a mask over the positions of each sample, without the last one of the second."""
    length = first.shape[1] if first.ndim > 1 else first.shape[0]
    mask = torch.ones(first.shape[0], length, dtype=torch.bool)
    mask[1:, -1] = False
    return mask


def _alike(first: Tensor, generator: torch.Generator) -> Tensor:
    if first.is_floating_point():
        return torch.randn(first.shape, generator=generator, dtype=first.dtype)
    return first.flatten()[torch.randperm(first.numel(), generator=generator)].reshape(first.shape)


def _pairs(first: Tensor, generator: torch.Generator) -> Tensor:
    """Return pairs of rows, `2 edges`: a ring, and as many that skip two."""
    rows = first.shape[-2] if first.ndim > 1 else first.shape[0]
    ring = torch.arange(rows)
    return torch.stack([torch.cat([ring, (ring + 1) % rows]), torch.cat([(ring + 1) % rows, (ring + 3) % rows])])


# Parts of an argument's name, in lower case, with what it likely is; the others are tried behind it.
_WORDS: tuple[tuple[tuple[str, ...], _Guess], ...] = (
    (("edge",), _pairs),
    (("mask",), _mask),
    (("id", "token", "text"), _ids),
    (("time", "step", "len", "label", "class", "noise", "sigma"), _numbers),
)
_GUESSES: tuple[_Guess, ...] = (_numbers, _alike, _ids, _mask, _pairs)


def _by_name(name: str, columns: int) -> list[_Guess]:
    def ids_of_columns(first: Tensor, generator: torch.Generator) -> Tensor:
        return torch.randint(0, 2, (first.shape[0], columns), generator=generator)

    more: list[_Guess] = [ids_of_columns] if columns > 1 else []
    named = more if "cat" in name.lower() else []
    likely: list[_Guess] = [guess for words, guess in _WORDS if any(word in name.lower() for word in words)]
    return list(dict.fromkeys([*named, *likely, *_GUESSES, *more]))
