"""The data of `python -m benchmarks names`: key trees of real pairs of models, and which key is which.

Made once, from a folder with pairs of models (pairs.py) and their proven maps:

    python -m benchmarks.names.data FOLDER [--packages OTHER] benchmarks/names/names.json.xz

so that the benchmark needs no model. A relation is the number of a source key (a rename, or the same numbers in another
shape), an expression in the notation of the maps with numbers for keys, None where the source has nothing for the key, or
False where no answer is judged: counters, tables of integers, keys that the output does not depend on, computed constants,
and the second name of a tied tensor.
"""

import importlib
import json
import lzma
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

FILE = Path(__file__).parent / "names.json.xz"

# What a relation is made with: which of its operands are relations follows.
CONSTANTS = ("zeros", "ones", "full")
JOINS = ("cat", "stack")
SUMS = ("foldw", "foldb", "add", "mul", "mm")

Tree = list[tuple[str, list[int], str]]


def without_numbers(tree: Tree) -> dict[str, Tensor]:
    """Return a key tree as a state dict on the meta device."""
    return {
        key: torch.empty(shape, dtype=getattr(torch, dtype.removeprefix("torch.")), device="meta")
        for key, shape, dtype in tree
    }


@dataclass(frozen=True)
class NamedPair:
    """Two key trees (key, shape, dtype) and the relation of every destination key; `tied` are source keys of one tensor."""

    id: str
    group: str
    src: Tree
    dst: Tree
    relations: list[Any]
    tied: list[list[int]]


def read(path: Path = FILE) -> list[NamedPair]:
    """Read the pairs."""
    data = json.loads(lzma.decompress(path.read_bytes()))
    trees = [[(key, data["shapes"][shape], dtype) for key, shape, dtype in tree] for tree in data["trees"]]
    return [
        NamedPair(pair["id"], pair["group"], trees[pair["src"]], trees[pair["dst"]], pair["relations"], pair["tied"])
        for pair in data["pairs"]
    ]


def by_name(pair: NamedPair) -> NamedPair:
    """Return the pair with the keys of its source in the order of their names, as in a safetensors file."""
    order = sorted(range(len(pair.src)), key=lambda n: pair.src[n][0])
    place = {old: new for new, old in enumerate(order)}
    return replace(
        pair,
        src=[pair.src[n] for n in order],
        relations=[_moved(relation, place) for relation in pair.relations],
        tied=[[place[n] for n in same] for same in pair.tied],
    )


def _moved(relation: Any, place: dict[int, int]) -> Any:
    """Return a relation with other numbers for its keys; what else stands in it are axes, places and numbers."""
    if relation is None or relation is False:
        return relation
    if isinstance(relation, int):
        return place[relation]
    op, *rest = relation
    if op in CONSTANTS:
        return relation
    if op in JOINS:
        return [op, rest[0], *(_moved(part, place) for part in rest[1:])]
    if op in SUMS:
        return [op, *(part if isinstance(part, float) else _moved(part, place) for part in rest)]
    return [op, _moved(rest[0], place), *rest[1:]]


def main(
    folder: Annotated[Path, typer.Argument(help="Where pairs.py and its maps are.")],
    output: Annotated[Path, typer.Argument(help="The file to write.")] = FILE,
    packages: Annotated[Path | None, typer.Option(help="A folder with packages that some pairs need.")] = None,
) -> None:
    """Write the key trees and relations of all pairs whose packages are there."""
    sys.path.insert(0, str(folder))
    if packages is not None:
        sys.path.append(str(packages))
    writer = _Writer()
    for pair in importlib.import_module("pairs").PAIRS:
        try:
            writer.add(pair)
        except ImportError as error:
            typer.echo(f"left out: {pair['id']}: {error}", err=True)
    output.write_bytes(lzma.compress(json.dumps(writer.data, separators=(",", ":")).encode(), preset=9))


class _Writer:
    """Collects pairs; trees and shapes that occur twice are written once."""

    def __init__(self) -> None:
        self.data: dict[str, list[Any]] = {"shapes": [], "trees": [], "pairs": []}

    def add(self, pair: dict[str, Any]) -> None:
        src, dst = _state(pair["src"]), _state(pair["dst"])
        known = json.loads(Path(pair["map"]).read_text())
        number = {key: n for n, key in enumerate(src)}
        unjudged = {*known["unread"], *known["constant"]}
        relations = [
            False if key in unjudged or not value.is_floating_point() else _relation(key, known, number)
            for key, value in dst.items()
        ]
        names: dict[int, list[int]] = {}
        for n, value in enumerate(src.values()):
            names.setdefault(id(value), []).append(n)
        self.data["pairs"].append(
            {
                "id": pair["id"],
                "group": f"{pair['group']}, {'hard' if pair['hard'] else 'easy'}",
                "src": self._tree(src),
                "dst": self._tree(dst),
                "relations": relations,
                "tied": [same for same in names.values() if len(same) > 1],
            }
        )

    def _tree(self, state: dict[str, Tensor]) -> int:
        tree = [[key, _intern(self.data["shapes"], list(v.shape)), str(v.dtype)] for key, v in state.items()]
        return _intern(self.data["trees"], tree)


def _intern(values: list[Any], value: Any) -> int:
    if value not in values:
        values.append(value)
    return values.index(value)


def _state(build: Any) -> dict[str, Tensor]:
    try:
        with torch.device("meta"):
            model = build()
    except Exception:
        # Some models compute with values while they are built.
        model = build()
    state = nn.Module.state_dict(model, keep_vars=True)
    return {key: value for key, value in state.items() if isinstance(value, Tensor)}


def _relation(key: str, known: dict[str, Any], number: dict[str, int]) -> Any:
    if key in known["map"]:
        return _numbered(known["map"][key], number)
    return None if key in known["missing"] else False


def _numbered(expression: Any, number: dict[str, int]) -> Any:
    if isinstance(expression, str):
        return number[expression]
    op, *rest = expression
    inner = [_numbered(part, number) if isinstance(part, str) or _is_expression(part) else part for part in rest]
    return inner[0] if op == "view" and isinstance(inner[0], int) else [op, *inner]


def _is_expression(part: Any) -> bool:
    return isinstance(part, list) and bool(part) and isinstance(part[0], str)


if __name__ == "__main__":
    typer.run(main)
