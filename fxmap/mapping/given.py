"""What a caller gives in the place of a mapping, a state dict, a key or a status: another thing is called what it is.

>>> given_state("a.pth", "apply")
Traceback (most recent call last):
    ...
fxmap.errors.ArgumentError: apply: state_dict is a mapping of keys to tensors, not the path 'a.pth': mapping.lazy(...
"""

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from fxmap.errors import ArgumentError, MappingError
from fxmap.expressions.base import Expression
from fxmap.expressions.text import read

Value = TypeVar("Value")


class AbsentKey(KeyError):
    """A key that is not there. Its text, with the closest candidate, is made when it is read: `in` and `get` ask in vain."""

    def __init__(self, key: object, why: str, known: Collection[str]) -> None:
        super().__init__(key, why, known)

    def __str__(self) -> str:
        key, why, known = self.args
        close = [] if key in known else get_close_matches(str(key), known, n=1)
        return f"{key}: {why}{f'; the closest is {close[0]}' if close else ''}"


def found_in(values: Mapping[str, Value], key: str) -> Value:
    """Return the value of a destination key.

    Raises:
        KeyError: the destination has no such key; the message names the closest.

    >>> found_in({"fc.weight": 1}, "fc.wieght")
    Traceback (most recent call last):
        ...
    fxmap.mapping.given.AbsentKey: fc.wieght: not a key of the destination, which has 1; the closest is fc.weight
    """
    if key not in values:
        raise AbsentKey(key, f"not a key of the destination, which has {len(values)}", values.keys())
    return values[key]


def given_state(state: Any, function: str) -> Mapping[str, Any]:
    """Return a state dict as it is.

    Raises:
        ArgumentError: it is something else.
    """
    if _is_mapping(state):
        return state  # type: ignore[no-any-return]
    step = "give model.state_dict(), or what torch.load(file) returns"
    if isinstance(state, str | Path):
        step = "mapping.lazy(path) and mapping.load_into(dst, path) read files"
    raise ArgumentError(f"{function}: state_dict is a mapping of keys to tensors, not {_what(state)}: {step}")


def given_expressions(expressions: Any) -> dict[str, Expression]:
    """Return destination keys with their expressions, of which some may be texts.

    Raises:
        MappingError: it is no such dict, or a text is no expression.
    """
    if isinstance(expressions, Mapping):
        return {key: _expression(key, value) for key, value in expressions.items()}
    step = "give {'a key of the destination': 'a key of the source'}, or what fxmap.auto_map(src, dst) returns"
    if isinstance(expressions, str | Path):
        step = f"a file of to_json is read by fxmap.KeyMapping.from_json(pathlib.Path({str(expressions)!r}).read_text())"
    raise MappingError(f"a mapping is a dict of keys, not {_what(expressions)}: {step}")


def given_json(text: Any) -> str | bytes | bytearray:
    """Return the text of a mapping in JSON.

    Raises:
        MappingError: it is no text, or the path of a file.
    """
    is_text = isinstance(text, str | bytes | bytearray)
    if is_text and (not isinstance(text, str) or text.lstrip().startswith("{") or not _is_path(text)):
        return text  # type: ignore[no-any-return]
    step = "it takes the text that to_json returned"
    if isinstance(text, str | Path):
        step = f"it takes the text of the file, fxmap.KeyMapping.from_json(pathlib.Path({str(text)!r}).read_text())"
    elif isinstance(text, Mapping):
        step = "json.dumps makes text of what json.load has read, and fxmap.KeyMapping({key: source_key}) one by hand"
    raise MappingError(f"from_json: not a mapping that fxmap wrote, but {_what(text)}: {step}")


def _is_path(text: str) -> bool:
    """Whether a text looks like the name of a file: a line without the braces of JSON."""
    return 0 < len(text) < 4096 and not set(text) & set('\n{}[]"')


def _is_mapping(value: Any) -> bool:
    """Whether a value has keys and their values; a ModuleDict has modules."""
    return not isinstance(value, nn.Module | type) and hasattr(value, "keys") and hasattr(value, "__getitem__")


def _what(value: object) -> str:
    if isinstance(value, str | Path):
        shown = str(value)
        return f"the path {shown!r}" if len(shown) < 200 else f"the text {shown[:200]!r}..."
    return f"the model {type(value).__name__}" if isinstance(value, nn.Module) else f"a {type(value).__name__}"


def _expression(key: str, value: object) -> Expression:
    """Return an expression unchanged, a source key as a rename, and the text of an expression as that expression."""
    if not isinstance(key, str):
        raise MappingError(f"{key!r}: a key of a destination is text")
    if isinstance(value, str):
        try:
            return read(value)
        except MappingError as error:
            raise MappingError(f"{key}: {error}") from error
    if not isinstance(value, Expression):
        raise MappingError(f"{key}: neither an expression nor a source key: {value!r}")
    return value
