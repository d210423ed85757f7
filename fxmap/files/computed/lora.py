"""Low-rank adapters (LoRA, DoRA) merged into the weights that they stand beside: `W + alpha / r * B @ A`.

Hu et al. 2021, arXiv 2106.09685; Liu et al. 2024, arXiv 2402.09353 (DoRA). Names are those of peft, loralib, torchtune and
litgpt; the rank is read off the shapes, alpha must be said by the file, by adapter_config.json beside it, or by the user.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from math import prod, sqrt

import torch

from fxmap.expressions.arithmetic import Product, Scaled, Sum, WeightNormed
from fxmap.expressions.base import Expression
from fxmap.expressions.layout import Reshape, Transpose
from fxmap.files.computed.kind import CannotCompute, Kind, Shape, View, Weight

_DOWN = re.compile(
    r"(?P<stem>.+)\.(?P<kind>lora_[Aa]|lora_embedding_A|lora_down)(?:\.(?P<name>(?!weight$)\w+))?(?P<leaf>\.weight)?"
)

_UP = {"lora_A": "lora_B", "lora_a": "lora_b", "lora_embedding_A": "lora_embedding_B", "lora_down": "lora_up"}

# How a wrapped layer names the layer inside it.
_INSIDE = (".base_layer", ".linear", "")


def stems(keys: Collection[str]) -> list[str]:
    """Return the paths of layers with adapters.

    >>> stems(["q_proj.lora_A.default.weight", "q_proj.lora_B.default.weight", "q_proj.base_layer.weight"])
    ['q_proj']
    """
    return list(dict.fromkeys(found["stem"] for key in keys if (found := _DOWN.fullmatch(key))))


def is_adapter(key: str) -> bool:
    """Tell whether a key is that of a tensor of an adapter.

    >>> is_adapter("q_proj.lora_B.default.weight"), is_adapter("lora.weight")
    (True, False)
    """
    return re.search(r"(^|\.)lora_(A|B|a|b|embedding_A|embedding_B|down|up|magnitude_vector)(\.|$)", key) is not None


@dataclass(frozen=True, slots=True)
class _Adapter:
    """The keys of an adapter, its rank, and the key of the weight that it changes, with that key without the wrapper."""

    stem: str
    down: str
    up: str
    embedding: bool
    base: str
    merged: str


def _merged(view: View, stem: str) -> Iterator[Weight]:
    found = _adapter(view, stem)
    a, b, shape = view.shape(found.down), view.shape(found.up), view.shape(found.base)
    if len(a) != len(b) or a[0] != b[1]:
        raise CannotCompute(f"{found.down} {list(a)} and {found.up} {list(b)} are no pair of low rank")
    whole, parts = view.read(found.base), [found.down, found.up, found.base]
    bias = f"{found.up.removesuffix('.weight')}.bias"
    if bias in view:
        raise CannotCompute(f"{bias}: an adapter with a bias")
    strength = f"{stem}.alpha"
    if not _is_zero(view, found.up):
        update = _update(view, found, (a, b, shape))
        whole = Sum((whole, Scaled(update, _scale(view, found, a[0], strength))))
    size = next((key for key in view.file if key.startswith(f"{stem}.lora_magnitude_vector")), "")
    if size:
        if found.embedding or prod(view.shape(size)) != shape[0]:
            raise CannotCompute(f"{size} is {list(view.shape(size))}, which are no sizes of the rows of {found.base}")
        whole = WeightNormed(whole, Reshape(view.read(size), (shape[0], *[1] * (len(shape) - 1))), 0)
        parts.append(size)
    yield Weight(found.merged, whole, shape, (*parts, *([strength] if strength in view else [])))


def _adapter(view: View, stem: str) -> _Adapter:
    downs = [found for key in view.file if (found := _DOWN.fullmatch(key)) and found["stem"] == stem]
    names = [found["name"] or "" for found in downs]
    if len(downs) != 1:
        raise CannotCompute(f"{stem} has several adapters: {', '.join(names)}. Merge the one that is meant first (peft)")
    kind, down = downs[0]["kind"], downs[0][0]
    up = f"{stem}.{_UP[kind]}{down[len(stem) + 1 + len(kind) :]}"
    if up not in view:
        raise CannotCompute(f"{down} has no counterpart {up}")
    base, merged = _base(view, stem)
    return _Adapter(stem, down, up, "embedding" in kind, base, merged)


def _base(view: View, stem: str) -> tuple[str, str]:
    """Return the key of the weight beside an adapter, and that key without the wrapper.

    A file of adapters spells a layer with more in front than the file of the weights does (`base_model.model.`).

    Raises:
        CannotCompute: there is none.
    """
    parts = stem.split(".")
    for begin in range(len(parts)):
        path = ".".join(parts[begin:])
        for inside in _INSIDE:
            if f"{path}{inside}.weight" in view:
                return f"{path}{inside}.weight", f"{path}.weight"
    raise CannotCompute(
        f"{stem} has an adapter (LoRA), and the weight that it changes is not in the file: an adapter alone. Load the file "
        "into a model with such adapters, or give the file of the weights with it: "
        "fxmap.load(dst, [weights_file, adapter_file])"
    )


def _update(view: View, found: _Adapter, shapes: tuple[Shape, Shape, Shape]) -> Expression:
    """Return `B @ A` in the layout of the weight."""
    a, b, shape = shapes
    down, up = view.read(found.down), view.read(found.up)
    if found.embedding:
        return Transpose(Product(up, down))
    if len(shape) > 2:
        if b[2:] != (1,) * len(b[2:]) or (b[0], prod(a[1:])) != (shape[0], prod(shape[1:])):
            raise CannotCompute(f"{found.down} {list(a)} and {found.up} {list(b)} do not make {found.base}, {list(shape)}")
        return Reshape(Product(Reshape(up, b[:2]), Reshape(down, (a[0], prod(a[1:])))), shape)
    if shape not in ((b[0], a[1]), (a[1], b[0])):
        raise CannotCompute(f"{found.down} {list(a)} and {found.up} {list(b)} do not make {found.base}, {list(shape)}")
    turned = _is_turned(view) if b[0] == a[1] else shape == (a[1], b[0])
    return Transpose(Product(up, down)) if turned else Product(up, down)


def _is_turned(view: View) -> bool:
    """Whether weights are stored as `i o` (peft's fan_in_fan_out), by the config or by other weights with adapters."""
    said = view.settings.adapter.get("fan_in_fan_out")
    if isinstance(said, bool):
        return said
    whole = View(view.file, view.settings)
    for stem in stems(view.file):
        try:
            found = _adapter(whole, stem)
            a, b, shape = whole.shape(found.down), whole.shape(found.up), whole.shape(found.base)
        except CannotCompute:
            continue
        if len(shape) == 2 and b[0] != a[1] and not found.embedding:
            return shape == (a[1], b[0])
    return False


def _is_zero(view: View, key: str) -> bool:
    return not bool(torch.any(view.tensor(key) != 0))


def _scale(view: View, found: _Adapter, rank: int, strength: str) -> float:
    """Return alpha / rank.

    Raises:
        CannotCompute: nothing says alpha.
    """
    config = view.settings.adapter
    alpha = view.settings.lora_alpha
    if strength in view:
        alpha = float(view.tensor(strength))
    elif alpha is None:
        alpha = _patterned(config.get("alpha_pattern"), found.stem, config.get("lora_alpha"))
    if alpha is None:
        raise CannotCompute(
            f"{found.stem} has an adapter (LoRA) of rank {rank}, and nothing says how much it counts: give "
            "fxmap.load(..., lora_alpha=), which stands in adapter_config.json (that is read where it lies beside the file)"
        )
    return alpha / (sqrt(rank) if config.get("use_rslora") else rank)


def _patterned(patterns: object, stem: str, usual: object) -> float | None:
    if isinstance(patterns, dict):
        for pattern, value in patterns.items():
            if stem == pattern or stem.endswith(f".{pattern}"):
                return float(value)
    return float(usual) if isinstance(usual, int | float) else None


def _plain(view: View, stem: str) -> Iterator[Weight]:
    """Give the other tensors of wrapped layers (`base_layer.bias`) the names that they have without the wrapper."""
    for key in list(view.keys()):
        if key.startswith(f"{stem}.base_layer."):
            plain = f"{stem}.{key.removeprefix(f'{stem}.base_layer.')}"
            yield Weight(plain, view.read(key), view.shape(key), (key,))


def _wrapped(keys: Collection[str]) -> list[str]:
    found = (key.partition(".base_layer.") for key in keys)
    return list(dict.fromkeys(stem for stem, mark, _ in found if mark))


def _saved(view: View, stem: str) -> Iterator[Weight]:
    """Take the tensors of a module that was trained in full, instead of the original ones beside them."""
    copies = [key for key in view.file if key.startswith(f"{stem}.modules_to_save.")]
    names = {key.removeprefix(f"{stem}.modules_to_save.").partition(".")[0] for key in copies}
    if len(names) != 1:
        raise CannotCompute(f"{stem} was saved for several adapters: {', '.join(sorted(names))}")
    for key in copies:
        leaf = key.removeprefix(f"{stem}.modules_to_save.").partition(".")[2]
        original = f"{stem}.original_module.{leaf}"
        yield Weight(f"{stem}.{leaf}", view.read(key), view.shape(key), (key, *([original] if original in view else [])))


def _saved_stems(keys: Collection[str]) -> list[str]:
    found = (key.partition(".modules_to_save.") for key in keys)
    return list(dict.fromkeys(stem for stem, mark, _ in found if mark))


ADAPTERS = Kind("low-rank adapters (LoRA), merged", stems, _merged)
WRAPPED = Kind("layers in the wrapper of an adapter", _wrapped, _plain)
SAVED = Kind("modules saved beside an adapter", _saved_stems, _saved)
