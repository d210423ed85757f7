"""Models and checkpoints by name, as the command line takes them.

    torchvision:resnet18(num_classes=5)        torchvision's registry, without weights
    timm:vit_base_patch16_224                  timm's registry, without weights
    transformers:folder/config.json            the architecture that a configuration names
    package.module:factory(arguments)          any callable that returns a model
    folder/file.safetensors                    a checkpoint: .pt, .pth, .bin, .safetensors, or an index of shards

Arguments are literals (numbers, strings, lists, True, None): nothing else of them is evaluated. A factory is code of its
package, and is run. Packages are those that are installed; for `package.module:factory` alone also those in the current
folder, which come last, so that a folder that was downloaded cannot stand in for an installed package.
"""

import ast
import difflib
import importlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from fxmap.errors import FxmapError
from fxmap.files.checkpoint import Checkpoint, open_checkpoint
from fxmap.model.weightless import without_weights


class UsageError(FxmapError):
    """A name of a model or a file that cannot be understood: nothing was run."""


class FactoryError(FxmapError):
    """A factory did not return a model."""


@dataclass(frozen=True)
class Reference:
    """The parsed name of a model or file: `origin` is the part before the colon, empty for a file."""

    text: str
    origin: str
    name: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


def parse(text: str) -> Reference:
    """Parse the name of a model or file, without running anything.

    Raises:
        UsageError: it is none of the forms above, or an argument is not a literal.

    >>> parse("torchvision:resnet18(num_classes=5)").kwargs
    {'num_classes': 5}
    """
    origin, colon, rest = text.partition(":")
    if not colon or _exists(text):
        return Reference(text, "", text)
    if origin == "transformers" and rest.endswith(".json"):
        return Reference(text, origin, rest)
    forms = "torchvision:NAME(arguments), timm:NAME(arguments), transformers:CONFIG.json, package.module:factory(arguments)"
    try:
        tree = ast.parse(rest, mode="eval").body
        call = tree if isinstance(tree, ast.Call) else ast.Call(tree, [], [])
        if any(word.arg is None for word in call.keywords):
            raise UsageError(f"{text}: ** is not understood in arguments: write them out")
        args = tuple(ast.literal_eval(arg) for arg in call.args)
        kwargs = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
        name = ast.unparse(call.func)
    except SyntaxError as error:
        raise UsageError(f"{text}: not understood: {error.msg}; the forms are {forms}, or a file") from error
    except (ValueError, TypeError, MemoryError, RecursionError) as error:
        raise UsageError(f"{text}: arguments are literals, such as 5, 'a', True or [1, 2], and nothing else") from error
    # Names of timm hold dots, as in resnet50.a1_in1k.
    if not all(part.isidentifier() for part in [*name.split("."), *origin.split(".")]):
        raise UsageError(f"{text}: not understood; the forms are {forms}, or a file")
    return Reference(text, origin, name, args, kwargs)


def resolve(text: str, weights: str | None = None) -> nn.Module | Checkpoint:
    """Build the model, or read the checkpoint, that a name refers to.

    Raises:
        UsageError: the name cannot be understood, or there is nothing of that name.
        FactoryError: the factory raised, or returned something else.
        CheckpointError: the file cannot be read.
    """
    reference = parse(text)
    if not reference.origin:
        return open_checkpoint(text, weights)
    build = _BUILDERS.get(reference.origin, _factory)(reference)
    try:
        model = build(*reference.args, **reference.kwargs)
    except SystemExit as error:
        raise FactoryError(f"{text}: building it called sys.exit({error.code!r})") from error
    except UsageError:
        raise
    except Exception as error:
        # The factory is the user's, and so is whatever it raises.
        raise FactoryError(f"{text}: building it raised {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise FactoryError(f"{text}: returned a {type(model).__name__}, not a model (torch.nn.Module)")
    return model.eval() or model


def on_meta(text: str) -> nn.Module:
    """Build a model without weights, which takes no memory; where its code reads values while it is built, with weights.

    Raises:
        UsageError, FactoryError: as `resolve`; also where the text names a file.
    """
    if not parse(text).origin:
        raise UsageError(f"{text}: a model is needed here, not a file: torchvision:NAME, package.module:factory")
    try:
        with without_weights():
            found = resolve(text)
    except FactoryError:
        found = resolve(text)
    assert isinstance(found, nn.Module)
    return found


def _torchvision(reference: Reference) -> Callable[..., Any]:
    models = _imported("torchvision.models", reference)
    _known(reference, models.list_models())
    return lambda *args, **kwargs: models.get_model(reference.name, *args, **({"weights": None} | kwargs))


def _timm(reference: Reference) -> Callable[..., Any]:
    timm = _imported("timm", reference)
    _known(reference, [*timm.list_models(), *timm.list_pretrained()])
    return lambda *args, **kwargs: timm.create_model(reference.name, *args, **kwargs)


def _transformers(reference: Reference) -> Callable[..., Any]:
    transformers = _imported("transformers", reference)
    try:
        data = json.loads(Path(reference.name).read_text(encoding="utf-8"))
        kind, architectures = data["model_type"], data.get("architectures") or []
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(
            f"{reference.text}: not a configuration of transformers: {type(error).__name__}: {error}"
        ) from error

    def build() -> Any:
        config = transformers.AutoConfig.for_model(**data)
        if architectures:
            named = getattr(transformers, str(architectures[0]), None)
            # The file names it, and may name anything of that package.
            if not (isinstance(named, type) and issubclass(named, nn.Module)):
                raise UsageError(f"{reference.text}: {architectures[0]!r} is no model of transformers")
            return named(config)
        return transformers.AutoModel.from_config(config)

    if not isinstance(kind, str):
        raise UsageError(f"{reference.text}: model_type is no name: {kind!r}")
    return build


def _factory(reference: Reference) -> Callable[..., Any]:
    _search_here_last()
    found: Any = _imported(reference.origin, reference)
    for part in reference.name.split("."):
        names = dir(found)
        if part not in names:
            raise UsageError(f"{reference.text}: {reference.origin} has no {part!r}{_closest(part, names)}")
        found = getattr(found, part)
    if not callable(found):
        raise UsageError(f"{reference.text}: {reference.name} is a {type(found).__name__}, and cannot be called")
    result: Callable[..., Any] = found
    return result


_BUILDERS: dict[str, Callable[[Reference], Callable[..., Any]]] = {
    "torchvision": _torchvision,
    "timm": _timm,
    "transformers": _transformers,
}


def _search_here_last() -> None:
    """Let packages be found in the current folder as well, after all that are installed."""
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)


def _exists(path: str) -> bool:
    """Whether there is a file of a name; there is none of a name that no file can have."""
    try:
        return Path(path).exists()
    except OSError:
        return False


def _imported(module: str, reference: Reference) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(
            f"{reference.text}: {module} cannot be imported: {error}. Install it, or correct its name"
        ) from error
    except SystemExit as error:
        raise FactoryError(f"{reference.text}: importing {module} called sys.exit({error.code!r})") from error
    except Exception as error:
        raise FactoryError(f"{reference.text}: importing {module} raised {type(error).__name__}: {error}") from error


def _known(reference: Reference, names: list[str]) -> None:
    if reference.name not in names:
        raise UsageError(f"{reference.text}: {reference.origin} has no {reference.name!r}{_closest(reference.name, names)}")


def _closest(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return f"; the closest is {close[0]!r}" if close else ""
