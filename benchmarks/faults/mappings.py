"""Attacks by mappings and names: damaged JSON, hostile keys in printed Python, and arguments of the command line."""

import ast
import contextlib
import io
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import fxmap
from benchmarks.faults.attack import Attack, load_or_refuse, model, raw
from benchmarks.faults.files import quietly
from fxmap.cli import app as cli
from fxmap.expressions.base import Source

_JUNK: tuple[Any, ...] = (None, True, -1, 0, 1e308, 10**30, "", "a", [], {}, [1, 2], "inf", "nan", 2**62, "\udcff", "\0")
_OPS = (
    "full",
    "quantized",
    "assembled",
    "slice",
    "concat",
    "packed_object",
    "unpacked",
    "permute",
    "folded_weight",
    "source",
)


def _nodes(data: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every place in nested data, as container and key."""
    for key in list(data) if isinstance(data, dict) else range(len(data)):
        yield data, key
        if isinstance(data[key], dict | list):
            yield from _nodes(data[key])


def _hostile(rng: random.Random, text: str) -> str:
    data = json.loads(text)
    for _ in range(rng.choice((1, 1, 3))):
        places = list(_nodes(data))
        container, key = rng.choice(places)
        kind = rng.randrange(4)
        if kind == 0 and isinstance(container, dict):
            del container[key]
        elif kind == 1:
            scheme: dict[str, Any] = {"dtype": rng.choice(("qint32", "qint8")), "axis": 0}
            scheme |= {"qscheme": "per_channel_affine_float_qparams"}
            scheme |= {"quant_min": 0, "quant_max": rng.choice((1, 255)), "eps": 1e-6}
            source = {"op": "source", "key": "0.weight"}
            container[key] = {
                "op": rng.choice(_OPS),
                "of": source,
                "key": "0.weight",
                "scheme": scheme,
                "shape": [2**31, 2**31],
            }
        elif kind == 2:
            container[key] = json.loads(json.dumps(rng.choice(places)[0]))
        else:
            container[key] = rng.choice(_JUNK)
    return json.dumps(data)


_MAPPING: list[str] = []


def damaged_mappings(rng: random.Random, folder: Path) -> str:
    """Change the JSON of a good mapping: fields, types, operations, numbers."""
    if not _MAPPING:
        _MAPPING.append(fxmap.auto_map(model(), model(), verify=False).to_json())
    text = _hostile(rng, _MAPPING[0])
    try:
        mapping = fxmap.KeyMapping.from_json(text)
        ast.parse(mapping.to_python())
        json.loads(mapping.to_json())
        str(mapping)
    except fxmap.FxmapError:
        return ""
    except Exception as error:
        return raw(error)
    if any(status.is_proven for status in mapping.knowledge.statuses.values()):
        return "a claim was believed"
    return load_or_refuse(lambda dst: mapping.load_into(dst, model().state_dict()))


_LETTERS = "ab.'\"\\\n\r\t{}()[]#;%$\0\x1b\u202e\udcff\u2028é漢 _0" + "\x9b"


def _key(rng: random.Random) -> str:
    if rng.random() < 0.3:
        return rng.choice(
            ('"]);__import__("os").abort()#', "'\\", "\n    import os", "{x!r}", "state", "convert", "__class__")
        )
    return "".join(rng.choice(_LETTERS) for _ in range(rng.randrange(0, 12)))


def hostile_keys(rng: random.Random, folder: Path) -> str:
    """Print mappings with hostile keys as Python: it makes the state dict, and names nothing but torch and its functions."""
    keys = {_key(rng): _key(rng) for _ in range(3)}
    state = {source: torch.arange(3.0) for source in keys.values()}
    try:
        with contextlib.suppress(fxmap.MappingError):  # text of an expression, which hostile text seldom is
            fxmap.KeyMapping(dict(keys))
        text = fxmap.KeyMapping({key: Source(source) for key, source in keys.items()}).to_python()
        # A mapping of renames calls nothing but what its own message on missing keys is made of.
        calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
        calls = [node for node in calls if ast.unparse(node.func) not in ("KeyError", "len")]
        if calls:
            return f"a key became a call: {ast.unparse(calls[0])[:80]}"
        names: dict[str, Any] = {}
        exec(compile(text, "printed", "exec"), names)
        made = names["convert"](state)
    except UnicodeEncodeError:
        return "" if any("\udcff" in key for pair in keys.items() for key in pair) else "text that is no text"
    except Exception as error:
        return raw(error)
    return "" if made.keys() == keys.keys() else "other keys"


_COMMANDS = ("map", "diff", "verify", "explain", "convert")
_WORDS: tuple[str, ...] = (
    *("--json", "--inputs", "1x3", "--weights", "a", "--force", "-o", "c.pth", "--dst", "1e400", "-", ""),
    *("torch.nn:Linear(3, 2)", "torch.nn:Identity()", "sys:exit(0)", "sys:exit()", "torch.nn:", ":", "\0:\0"),
    *("a" * 5000, "\udcff.pth", "x\x1b[2J.pth", "a.pth", "b.pth"),
)
_STATUSES = (0, 1, 2, 3, 4, 130)


def command_lines(rng: random.Random, folder: Path) -> str:
    """Run the command line on random words: one documented status, one line of error, JSON alone where it is asked for."""
    torch.save(
        {"x\x1b]0;title\x07": torch.zeros(2), "y\nproof: ok": torch.ones(3), _key(rng): torch.ones(1)}, folder / "a.pth"
    )
    torch.save(torch.nn.Linear(3, 2).state_dict(), folder / "b.pth")
    words = [rng.choice(_WORDS[:5]), *(rng.choice(_WORDS[5:]) for _ in range(rng.randrange(1, 5)))]
    words = [
        str(folder / word) if word.endswith(".pth") and "\x1b" not in word else word for word in words if word != "os:abort"
    ]
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), contextlib.chdir(folder):
            cli.main(words)
    except SystemExit as error:
        status = error.code
    except BaseException as error:
        return f"{raw(error)} for {words}"
    if status not in _STATUSES:
        return f"status {status} for {words}"
    text = out.getvalue() + (err.getvalue() if "fxmap: error" in err.getvalue() else "")
    if not all(letter == "\n" or letter.isprintable() for letter in text):
        return f"what a terminal acts on, for {words}"
    if "--json" in words and not _is_json(out.getvalue()):
        return f"no JSON for {words}"
    return ""


def _is_json(text: str) -> bool:
    try:
        json.loads(text, parse_constant=lambda name: json.loads("no " + name))
    except ValueError:
        return False
    return True


def attacks() -> Iterator[Attack]:
    """Yield the kinds of attacks by mappings and names."""
    yield Attack("damaged mappings", "refused, or claimed; nothing half written", quietly(damaged_mappings))
    yield Attack("hostile keys", "strings in printed Python", quietly(hostile_keys))
    yield Attack("command lines", "one documented status; JSON alone; no escape sequences", quietly(command_lines))
