"""Names of Keras' variables, which its files number since version 3: by the configuration of their layer, and their shapes.

>>> shapes = {"layers/conv2d/vars/0": (3, 3, 3, 8), "layers/conv2d/vars/1": (8,)}
>>> named(list(shapes), shapes, {"layers/conv2d": "stem"}, None)
{'layers/conv2d/vars/0': 'stem/kernel', 'layers/conv2d/vars/1': 'stem/bias'}
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Shape = tuple[int, ...]

_NORM = ("gamma", "beta")
_STATISTICS = ("moving_mean", "moving_variance")


def named(keys: Sequence[str], shapes: Mapping[str, Shape], layers: Mapping[str, str], config: Any) -> dict[str, str]:
    """Return a name for every key, in the order of the configuration's layers, or else that of the keys.

    Args:
        keys: paths in the file, as `layers/conv2d/vars/0`; others keep their names.
        shapes: of the tensors at these paths.
        layers: the names that layers were given, by their paths.
        config: the configuration of the model, or None where the file has none.
    """
    options = dict(_configured(config))
    groups: dict[str, list[str]] = defaultdict(list)
    for key in keys:
        groups[_layer(key)].append(key)
    found: dict[str, str] = {}
    for layer in sorted(groups, key=lambda path: _rank(path, layers, options)):
        numbered = sorted(groups[layer], key=lambda key: (len(key), key))
        roles = _roles([shapes[key] for key in numbered], layers.get(layer, layer), options.get(layers.get(layer, ""), {}))
        for key, role in zip(numbered, roles, strict=True):
            found[key] = f"{_path(layer, layers)}/{role}" if _is_numbered(key) else key
    return found if len(set(found.values())) == len(found) else {key: key for key in found}


def _is_numbered(key: str) -> bool:
    return re.search(r"(^|/)vars/\d+$", key) is not None


def _layer(key: str) -> str:
    return re.sub(r"/?vars/\d+$", "", key) if _is_numbered(key) else key


def _path(layer: str, layers: Mapping[str, str]) -> str:
    """Return the given names of a layer and of those around it, without the containers between them."""
    parts = [part for part in layer.split("/") if part]
    names = []
    for depth in range(1, len(parts) + 1):
        here = "/".join(parts[:depth])
        if parts[depth - 1] not in ("layers", "vars"):
            names.append(layers.get(here, parts[depth - 1]))
    return "/".join(names)


def _configured(config: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the name and the options of every layer of a configuration, in its order."""
    todo = [config]
    while todo:
        value = todo.pop()
        if isinstance(value, dict):
            options = value.get("config")
            if isinstance(options, dict) and isinstance(options.get("name"), str) and "class_name" in value:
                yield options["name"], options
            todo += reversed(list(value.values()))
        elif isinstance(value, list):
            todo += reversed(value)


def _rank(layer: str, layers: Mapping[str, str], options: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the places in the configuration of a layer and of those around it; layers that it does not name come last."""
    if not options:
        return ()
    order = {name: place for place, name in enumerate(options)}
    parts = layer.split("/")
    around = ["/".join(parts[:depth]) for depth in range(1, len(parts) + 1)]
    return tuple(order.get(layers[path], len(order)) for path in around if path in layers) or (len(order),)


def _roles(shapes: Sequence[Shape], name: str, options: Mapping[str, Any]) -> list[str]:
    """Return the names that Keras' layers give their variables, in the order in which they make them; else numbers."""
    numbers = [str(place) for place in range(len(shapes))]
    wide = [shape for shape in shapes if len(shape) > 1]
    if not wide:
        return _of_norm(numbers, options)
    kernel, *rest = shapes
    if len(kernel) > 1 and not rest and "embedding" in name.lower():
        return ["embeddings"]
    if len(kernel) > 1 and (
        not rest or (len(rest) == 1 and len(rest[0]) < len(kernel) and rest[0] == kernel[-len(rest[0]) :])
    ):
        return ["kernel", "bias"][: len(shapes)]
    if len(wide) == 2 and list(shapes[:2]) == wide and len(wide[0]) == len(wide[1]):
        first = "depthwise_kernel" if len(kernel) > 2 else "kernel"
        second = "pointwise_kernel" if len(kernel) > 2 else "recurrent_kernel"
        return [first, second, *(["bias"] if len(shapes) == 3 else numbers[2:])]
    if len(wide) == 1 and len(kernel) > 1 and len(rest) == 1:
        return ["kernel", "bias"]
    return numbers


def _of_norm(numbers: list[str], options: Mapping[str, Any]) -> list[str]:
    if "scale" in options and "center" in options:
        names = [one for one, switch in zip(_NORM, ("scale", "center"), strict=True) if options[switch]]
        rest = len(numbers) - len(names)
        return names + list(_STATISTICS) if rest == len(_STATISTICS) else names if not rest else numbers
    if len(numbers) in (2, 4):
        return [*_NORM, *_STATISTICS][: len(numbers)]
    # Without scale or without offset: which of them it is, nothing says.
    return [numbers[0], *_STATISTICS] if len(numbers) == 3 else numbers
