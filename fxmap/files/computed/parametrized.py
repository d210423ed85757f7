"""Weights that torch's parametrizations and its older hooks compute: weight norm, spectral norm, pruning.

In the older spelling a weight `w` is `w_g` and `w_v`, or `w_orig` with `w_u` and `w_v`, or with `w_mask`; in the newer one
all of it is below `parametrizations.w`.
"""

from collections.abc import Iterator
from math import prod

from fxmap.expressions.arithmetic import WeightNormed
from fxmap.expressions.stored import SpectralNormed, Times
from fxmap.files.computed.kind import CannotCompute, Kind, Shape, View, Weight, with_suffixes


def _weight_norm(view: View, stem: str) -> Iterator[Weight]:
    size, direction, key = names_of_weight_norm(stem)
    shape = view.shape(direction)
    made = WeightNormed(view.read(direction), view.read(size), axis_of_size(view.shape(size), shape))
    yield Weight(key, made, shape, (size, direction))


def names_of_weight_norm(stem: str) -> tuple[str, str, str]:
    """Return the keys of size and direction, and of the weight that they make, for a stem of weight norm.

    >>> names_of_weight_norm("conv.weight")
    ('conv.weight_g', 'conv.weight_v', 'conv.weight')
    """
    owner, _, name = stem.rpartition("parametrizations.")
    if name != stem:
        return f"{stem}.original0", f"{stem}.original1", owner + name
    return f"{stem}_g", f"{stem}_v", stem


def axis_of_size(size: Shape, whole: Shape) -> int:
    """Return the axis along which weight norm keeps sizes, or -1 where it keeps one size for all.

    Raises:
        CannotCompute: these are not the sizes of such a tensor.

    >>> axis_of_size((4, 1, 1), (4, 3, 5)), axis_of_size((1, 3, 1), (4, 3, 5)), axis_of_size((), (4, 3))
    (0, 1, -1)
    """
    if size == ():
        return -1
    for axis, extent in enumerate(whole):
        if size == tuple(extent if other == axis else 1 for other in range(len(whole))):
            return axis
    raise CannotCompute(f"sizes {list(size)} are not those of a weight {list(whole)}")


def _spectral_norm(view: View, stem: str) -> Iterator[Weight]:
    owner, _, name = stem.rpartition("parametrizations.")
    if name != stem:
        weight, u, v, key = f"{stem}.original", f"{stem}.0._u", f"{stem}.0._v", owner + name
        if any(other.startswith(f"{stem}.1.") for other in view.file):
            raise CannotCompute(f"{stem} has several parametrizations, one behind the other")
    else:
        weight, u, v, key = f"{stem}_orig", f"{stem}_u", f"{stem}_v", stem
    shape = view.shape(weight)
    rows, columns = (prod(view.shape(part)) for part in (u, v))
    axes = [axis for axis, extent in enumerate(shape) if extent == rows and prod(shape) == rows * columns]
    if not axes:
        raise CannotCompute(f"{u} and {v} are not singular vectors of a weight {list(shape)}")
    made = SpectralNormed(view.read(weight), view.read(u), view.read(v), _fitting(view, (weight, u, v), axes))
    yield Weight(key, made, shape, (weight, u, v))


def _fitting(view: View, keys: tuple[str, str, str], axes: list[int]) -> int:
    """Return the axis for which `u` is the direction of `W @ v`, where several have the right length; else the first."""
    weight, u, v = (view.tensor(key).detach().float() for key in keys)

    def fit(axis: int) -> float:
        image = weight.movedim(axis, 0).flatten(1) @ v
        return float((image @ u) / (image.norm() * u.norm()).clamp_min(1e-12))

    fits = {axis: fit(axis) for axis in axes}
    best = max(fits, key=lambda axis: fits[axis])
    return best if fits[best] > 0.9 else axes[0]


def _pruned(view: View, stem: str) -> Iterator[Weight]:
    weight, mask = f"{stem}_orig", f"{stem}_mask"
    yield Weight(stem, Times(view.read(weight), view.read(mask)), view.shape(weight), (weight, mask))


WEIGHT_NORM = Kind("weight norm", with_suffixes(("_g", "_v"), (".original0", ".original1")), _weight_norm)
SPECTRAL_NORM = Kind("spectral norm", with_suffixes(("_u", "_v", "_orig"), (".0._u", ".0._v", ".original")), _spectral_norm)
PRUNING = Kind("pruning with masks", with_suffixes(("_mask", "_orig")), _pruned)
