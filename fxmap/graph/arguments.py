"""The arguments of a call by name, however they were given."""

import inspect
from collections.abc import Callable
from keyword import iskeyword
from typing import Any

import torch
from torch import fx
from torch._jit_internal import boolean_dispatched
from torch._ops import OpOverload
from torch.fx.operator_schemas import get_signature_for_torch_op

from fxmap.graph.kinds import SPELLINGS, kind_of

# Names of the arguments of operations whose signature calls them something else.
_ARGUMENTS = {"addmm": ("bias", "input", "mat2"), "mm": ("input", "mat2"), "embedding": ("weight", "input")}


def bind(node: fx.Node) -> dict[str, Any]:
    """Return all arguments of a call by the names of the function's signature, defaults filled in."""
    if node.op == "call_module":
        return {"input": node.args[0]}
    bound = _bound(node)
    if bound is None:
        return {f"arg{i}" if i else "input": value for i, value in enumerate(node.args)} | node.kwargs
    bound.apply_defaults()
    arguments = _flat(bound)
    names = _ARGUMENTS.get(kind_of(node)) if isinstance(node.target, OpOverload) else None
    if names is None:
        return arguments
    values = list(arguments.items())
    return dict(zip(names, (value for _, value in values), strict=False)) | dict(values[len(names) :])


def _bound(node: fx.Node) -> inspect.BoundArguments | None:
    for signature in _signatures(node.target):
        try:
            return signature.bind(*node.args, **{_parameter(name): value for name, value in node.kwargs.items()})
        except TypeError:
            continue
    return None


def _parameter(name: str) -> str:
    """Return the name of a parameter for an argument; Python forbids some of torch's, as `from` of uniform_."""
    return f"{name}_" if iskeyword(name) else name


def default_arguments(node: fx.Node) -> dict[str, Any]:
    """Return the defaults of a call's signature, by name."""
    bound = None if node.op == "call_module" else _bound(node)
    parameters = {} if bound is None else bound.signature.parameters
    return {name: comparable(p.default) for name, p in parameters.items() if p.default is not p.empty}


def _flat(bound: inspect.BoundArguments) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        variadic = bound.signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD
        arguments.update(value if variadic else {"input" if name == "self" else name: value})
    return arguments


_OPERATOR = inspect.Signature(
    [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ("input", "other")]
)


_CACHE: dict[Any, list[inspect.Signature]] = {}


def _signatures(target: Callable[..., Any] | str) -> list[inspect.Signature]:
    function = getattr(torch, target, None) if isinstance(target, str) else target
    if not callable(function) or (isinstance(target, str) and target in SPELLINGS):
        return []  # torch.float is a dtype, not the method
    # max_pool2d and its like are two functions behind one name, which has no signature of its own.
    function = boolean_dispatched.get(function, {"if_false": function})["if_false"]
    if function not in _CACHE:
        if getattr(function, "__module__", None) == "_operator":
            _CACHE[function] = [_OPERATOR]
        else:
            try:
                aten = isinstance(function, OpOverload)
                found = [_schema_signature(function)] if aten else get_signature_for_torch_op(function)
                _CACHE[function] = list(found) if found else [inspect.signature(function)]
            except (TypeError, ValueError):
                _CACHE[function] = []
    return _CACHE[function]


def _schema_signature(op: OpOverload) -> inspect.Signature:
    kinds = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Signature(
        [
            inspect.Parameter(
                _parameter(argument.name),
                kinds[not argument.kwarg_only],
                default=argument.default_value if argument.has_default_value() else inspect.Parameter.empty,
            )
            for argument in op._schema.arguments
        ]
    )


def comparable(value: Any) -> Any:
    """Make a static argument comparable: (3, 3) and 3 are one kernel size."""
    if isinstance(value, list | tuple):
        parts = tuple(comparable(part) for part in value)
        return parts[0] if parts and all(part == parts[0] for part in parts) else parts
    if isinstance(value, slice):
        return ("slice", value.start, value.stop, value.step)
    return value if isinstance(value, int | float | str | bool) else str(value)
