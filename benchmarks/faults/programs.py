"""Attacks by programs of a mapping's JSON: any operation of aten, with arguments that may not fit."""

import json
import random
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import fxmap
from benchmarks.faults.attack import Attack, copies, raw, same

_DTYPES = ("float32", "int64", "quint8", "complex64", "bool", "save")


def _operations() -> list[tuple[str, Any]]:
    found = []
    for name in sorted(dir(torch.ops.aten)):
        packet = getattr(torch.ops.aten, name)
        for overload in packet.overloads() if hasattr(packet, "overloads") else ():
            found.append((f"aten.{name}.{overload}", getattr(packet, overload)))
    return found


def _argument(rng: random.Random, kind: str) -> Any:
    """Return an argument of a kind of a schema, as JSON; one in twenty is of another kind."""
    if rng.random() < 0.05:
        kind = rng.choice(("int", "float", "str", "Tensor", "bool"))
    if kind.startswith("Optional["):
        return None if rng.random() < 0.5 else _argument(rng, kind[9:-1])
    if kind.startswith("List["):
        return [_argument(rng, kind[5:-1]) for _ in range(rng.choice((0, 1, 2, 2, 3)))]
    values: dict[str, tuple[Any, ...]] = {
        "Tensor": tuple({"value": place} for place in (0, 1, 2)),
        "int": (0, 1, 2, -1, 7, 2**31, 2**62, -(2**62)),
        "float": (0.0, 1.0, -1.0, 1e30, 1e308),
        "number": (0, 1, 2.5, -1),
        "bool": (True, False),
        "str": ("", "mean", "ij,jk->ik", "none"),
        "ScalarType": (*({"dtype": name} for name in _DTYPES), 10**6),
    }
    return rng.choice(values.get(kind, (None,)))


def hostile_programs(rng: random.Random, folder: Path) -> str:
    """Read and apply a program of one to three steps; the first of them is of any operation of aten."""
    steps, operations = [], _operations()
    for _ in range(rng.choice((1, 1, 3))):
        name, operation = rng.choice(operations)
        arguments = operation._schema.arguments
        given = [_argument(rng, str(taken.real_type)) for taken in arguments if not taken.kwarg_only]
        named = [taken for taken in arguments if taken.kwarg_only and (taken.name == "out" or rng.random() < 0.3)]
        steps.append([name, given, {taken.name: _argument(rng, str(taken.real_type)) for taken in named}])
    parts = [{"op": "source", "key": key} for key in "abc"]
    made: dict[str, Any] = {"op": "computed", "parts": parts, "program": json.dumps(steps)}
    if rng.random() < 0.3:
        shapes = [[rng.choice((1, 2, 2**40, -1))]]
        made |= {"op": "stretch", "shapes": shapes, "probes": [rng.choice((0, 1, -1, 2**62))], "read": [rng.choice((0, 5))]}
    text = json.loads(fxmap.KeyMapping({"a": "a"}).to_json())
    text["expressions"]["a"] = made
    state = {"a": torch.arange(12.0).reshape(3, 4), "b": torch.ones(4), "c": torch.tensor([1, 2, 0])}
    before = copies(state)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mapping = fxmap.KeyMapping.from_json(json.dumps(text))
            str(mapping)
            mapping.to_python()
            mapping.apply(state)
    except fxmap.InternalError as error:
        return raw(error)
    except fxmap.FxmapError as error:
        return "" if str(error) else "an error without words"
    except Exception as error:
        return raw(error)
    return "" if same(before, state) else f"{steps}: the caller's tensors were written"


def attacks() -> Iterator[Attack]:
    """Yield the kind of attacks by programs."""
    yield Attack("hostile programs", "refused, or computed; nothing of the caller's is written", hostile_programs)
