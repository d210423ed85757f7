"""The tensors of both models in a proof: the destination's are made of the source's by the mapping."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from fxmap.errors import MappingError
from fxmap.forms.store import COPY
from fxmap.mapping.key_mapping import KeyMapping
from fxmap.matching.sides import Side
from fxmap.run.randomize import in_double


@dataclass(frozen=True, slots=True)
class Weights:
    """The float64 tensors that both float twins run with, by path."""

    src: Mapping[str, Tensor]
    dst: Mapping[str, Tensor]


def held(side: Side, keys: Iterable[str]) -> set[str]:
    """Return the paths of the tensors that the given state dict keys of a model hold."""
    stores, prefix = side.twin.stores, side.prefix
    own = (key.removeprefix(prefix) for key in keys if key.startswith(prefix))
    return {path for key in own if key in stores for path in stores[key].names}


def mapped_weights(mapping: KeyMapping, src: Side, dst: Side, source: Mapping[str, Tensor]) -> Weights:
    """Return the source's tensors and the destination's: those that the mapping makes of them, and its own for the rest.

    Raises:
        ValueError: the mapping makes a tensor of another shape.
    """
    state = {src.prefix + key: store.joined(source) for key, store in src.twin.stores.items()}
    tensors: dict[str, Tensor] = {}
    canonical = dst.main.canonical
    for key, store in dst.twin.stores.items():
        expression = mapping.get(dst.prefix + key)
        if expression is None or store.part == COPY:
            continue
        value = expression.evaluate(state, quantized=False)
        for path, part in store.parts(value).items():
            # A tensor with several keys has the value that is loaded last.
            tensors[canonical[path]] = _fitting(dst, path, part)
    for path, tensor in dst.main.tensors.items():
        if canonical[path] not in tensors:
            own = tensor.detach()
            differs = own.is_floating_point() or own.is_complex()
            tensors[canonical[path]] = in_double(own) if differs else own.clone()
    return Weights(source, {path: tensors[name] for path, name in canonical.items()})


def _fitting(dst: Side, path: str, value: Tensor) -> Tensor:
    shape = dst.main.tensors[path].shape
    if value.shape != shape:
        raise MappingError(f"{path}: the mapping makes {list(value.shape)}, the destination has {list(shape)}")
    # Detached: the storage is the source's, the gradient is the destination's own.
    return value.detach()


@contextmanager
def differentiable(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Let the floating-point and complex tensors require gradients inside a `with` block, and yield them."""
    leaves = {path: tensor for path, tensor in tensors.items() if tensor.is_floating_point() or tensor.is_complex()}
    for leaf in leaves.values():
        leaf.requires_grad_(True)
    try:
        yield leaves
    finally:
        for leaf in leaves.values():
            leaf.requires_grad_(False)
