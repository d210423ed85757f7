"""Sources that carry their graph: options of `load` that mean nothing for them, and layers of which a part is left."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fxmap.errors import ArgumentError, LoadError, shorten
from fxmap.files.left_over import left_over
from fxmap.mapping.key_mapping import KeyMapping
from fxmap.sources.opened import carries_graph


def refuse_choices(where: str, **options: object) -> None:
    """Refuse options that choose among the weights of a checkpoint: a graph has one set of them.

    Raises:
        LoadError: one is given.
    """
    given = [f"{name}={value!r}" for name, value in options.items() if value is not None]
    if given:
        raise LoadError(f"{', '.join(given)}: {where} carries its graph, which has one set of weights. Leave it out")


def refuse_graph_file(name: str, value: object, instead: str) -> None:
    """Refuse the path of a file that carries its graph where a model is asked for; `instead` says what takes such a path.

    Raises:
        ArgumentError: it is one.

    >>> refuse_graph_file("dst", "a.onnx", "see convert")
    Traceback (most recent call last):
        ...
    fxmap.errors.ArgumentError: dst is a model (torch.nn.Module), not the path 'a.onnx': see convert. Nothing was written
    """
    if isinstance(value, str | Path) and carries_graph(value):
        path = str(value)
        raise ArgumentError(f"{name} is a model (torch.nn.Module), not the path {path!r}: {instead}. Nothing was written")


def refuse_beside(source: object, src: object) -> None:
    """Refuse a source model beside what carries its graph: that is the model already.

    Raises:
        ArgumentError: there is one.
    """
    is_file = isinstance(source, str | Path) and carries_graph(source)
    if src is not None and (is_file or isinstance(source, torch.export.ExportedProgram | torch.jit.ScriptModule)):
        where = str(source) if is_file else f"the {type(source).__name__}"
        raise ArgumentError(
            f"leave src= out: {where} carries its graph, and is the source model itself. Nothing was written"
        )


def refuse_parts(mapping: KeyMapping, state: Mapping[str, Any], where: str) -> None:
    """Refuse a source with layers of which some tensors are read and others are not, unless a proof shows them idle.

    Raises:
        LoadError: there are such layers.
    """
    grave = [] if mapping.proof.ok else [one.key for one in left_over(state, mapping.sources()) if one.grave]
    if grave:
        raise LoadError(
            f"{where} holds more than the destination reads: {shorten(grave)}. Nothing was written. Pass strict=False to "
            "leave these in the file"
        )
