"""Other ways to match keys by names and shapes, each as its authors wrote it; the short ones are written down again.

A mapper takes the key trees of source and destination and returns, for each destination key that it maps, a source key. A
mapper that refuses a pair raises.
"""

import contextlib
import difflib
import io
import logging
from collections import defaultdict, deque
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.names.data import Tree

Mapper = Callable[[Tree, Tree], dict[str, str]]


def exact_names(src: Tree, dst: Tree) -> dict[str, str]:
    """Take equal names of equal shape, as load_state_dict(strict=False) does."""
    shapes = {key: shape for key, shape, _ in src}
    return {key: key for key, shape, _ in dst if shapes.get(key) == shape}


def suffixes(src: Tree, dst: Tree) -> dict[str, str]:
    """Take the longest source key that a destination key ends in, as in maskrcnn-benchmark and detectron2."""
    shapes = {key: shape for key, shape, _ in src}
    result = {}
    for key, shape, _ in dst:
        ends = [key[start:] for start in range(len(key)) if key[start:] in shapes]
        if ends and shapes[ends[0]] == shape:
            result[key] = ends[0]
    return result


def closest_names(src: Tree, dst: Tree) -> dict[str, str]:
    """Take the closest name of equal shape, by difflib."""
    by_shape: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for key, shape, _ in src:
        by_shape[tuple(shape)].append(key)
    found = {key: difflib.get_close_matches(key, by_shape[tuple(shape)], n=1) for key, shape, _ in dst}
    return {key: close[0] for key, close in found.items() if close}


def shape_queue(src: Tree, dst: Tree) -> dict[str, str]:
    """Take the next source tensor of the same shape, in the order of the file."""
    queues: dict[tuple[int, ...], deque[str]] = defaultdict(deque)
    for key, shape, _ in src:
        queues[tuple(shape)].append(key)
    return {key: queues[tuple(shape)].popleft() for key, shape, _ in dst if queues[tuple(shape)]}


def plain_order(src: Tree, dst: Tree) -> dict[str, str]:
    """Take the source tensor at the same place in the file, if its shape is equal."""
    return {theirs[0]: ours[0] for ours, theirs in zip(src, dst, strict=False) if ours[1] == theirs[1]}


def timm_remap(src: Tree, dst: Tree) -> dict[str, str]:
    """Ask timm.models.remap_state_dict: by place, reshaped where needed; refuses another number of elements."""
    from timm.models._helpers import remap_state_dict

    state, _ = _numbered(src)

    class Model:
        def state_dict(self) -> dict[str, Tensor]:
            return _numbered(dst)[0]

    return _keys_of(remap_state_dict(state, Model()), src)


def weightbridge(src: Tree, dst: Tree, *, ignore: bool = False) -> dict[str, str]:
    """Ask weightbridge.adapt."""
    from weightbridge import adapt

    with contextlib.redirect_stdout(io.StringIO()):
        made = adapt(_numbered(src)[0], _numbered(dst)[0], ignore_unmatched_inputs=ignore, ignore_unmatched_outputs=ignore)
    return _keys_of({key: torch.as_tensor(value) for key, value in made.items()}, src)


def weightbridge_ignoring(src: Tree, dst: Tree) -> dict[str, str]:
    """Ask weightbridge.adapt, which leaves out what it does not match."""
    return weightbridge(src, dst, ignore=True)


def lit_wsl(src: Tree, dst: Tree, *, strategy: str = "greedy") -> dict[str, str]:
    """Ask lit_wsl's WeightMapper, buffers included."""
    from lit_wsl.mapper.weight_mapper import WeightMapper

    logging.disable(logging.WARNING)
    try:
        mapper = WeightMapper(
            source_params=_numbered(src)[0], target_params=_numbered(dst)[0], buffer_matching_mode="strict"
        )
        found = mapper.suggest_mapping(validate_outputs=False, strategy=strategy).get_mapping()
    finally:
        logging.disable(logging.NOTSET)
    return {theirs: ours for ours, theirs in found.items()}


def lit_wsl_optimal(src: Tree, dst: Tree) -> dict[str, str]:
    """Ask lit_wsl's WeightMapper with the Hungarian strategy."""
    return lit_wsl(src, dst, strategy="optimal")


def _numbered(tree: Tree) -> tuple[dict[str, Tensor], list[str]]:
    """Return tensors that know which key they are, and cost no memory."""
    state = {key: torch.tensor(float(n)).expand(shape) for n, (key, shape, _) in enumerate(tree)}
    return state, list(state)


def _keys_of(made: dict[str, Tensor], src: Tree) -> dict[str, str]:
    keys = [key for key, _, _ in src]
    return {key: keys[int(value.reshape(-1)[0])] for key, value in made.items() if value.numel()}


PEERS: dict[str, Mapper] = {
    "exact names": exact_names,
    "suffixes": suffixes,
    "difflib and shape": closest_names,
    "shape queue": shape_queue,
    "plain order": plain_order,
    "timm remap": timm_remap,
    "weightbridge": weightbridge,
    "weightbridge (unmatched ignored)": weightbridge_ignoring,
    "lit-wsl": lit_wsl,
    "lit-wsl (Hungarian)": lit_wsl_optimal,
}
