"""Models and checkpoints by name, as the command line takes them.

    torchvision:resnet18(num_classes=5)        torchvision's registry, without weights
    timm:vit_base_patch16_224                  timm's registry, without weights
    transformers:folder                        the architecture that its config.json, or a named .json file, describes
    hf:organisation/name                       the same, of a model of the Hugging Face Hub: its config.json alone is fetched
    net.py:factory(arguments)                  a callable of a file that returns a model
    package.module:factory(arguments)          one of a package
    folder/file.safetensors                    a checkpoint: .pt, .pth, .bin, .safetensors, or an index of shards

Arguments are literals (numbers, strings, lists, True, None): nothing else of them is evaluated. A factory is code of its
file or package, and is run; of a configuration no code is run but that of the installed library. Packages are those that are
installed; for `package.module:factory` alone also those in the current folder, which come last, so that a folder that was
downloaded cannot stand in for an installed package. A file that is run is named on stderr.
"""

import ast
import difflib
import importlib
import importlib.util
import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from fxmap.cli.output import escaped, tell
from fxmap.errors import FxmapError
from fxmap.files.checkpoint import Checkpoint, open_checkpoint
from fxmap.files.reading import existing
from fxmap.model.weightless import without_weights
from fxmap.model.well_formed import refuse_malformed
from fxmap.sources.opened import Carried, carries_graph, is_script_file, opened
from fxmap.trace import stage


class UsageError(FxmapError):
    """A name of a model or a file that cannot be understood: nothing was run."""


class FactoryError(FxmapError):
    """A factory did not return a model."""


class FetchError(FxmapError):
    """The configuration of a model could not be fetched."""


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
    origin, rest = _split(text)
    if not origin or _exists(text):
        return Reference(text, "", text)
    if origin == "hf" or (origin == "transformers" and (rest.endswith(".json") or Path(rest).is_dir())):
        return Reference(text, origin, rest)
    forms = (
        "torchvision:NAME(arguments), timm:NAME(arguments), transformers:FOLDER, hf:ORGANISATION/NAME, "
        "file.py:factory(arguments), package.module:factory(arguments)"
    )
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
    parts = name.split(".") if origin.endswith(".py") else [*name.split("."), *origin.split(".")]
    if not all(part.isidentifier() for part in parts):
        raise UsageError(f"{text}: not understood; the forms are {forms}, or a file")
    return Reference(text, origin, name, args, kwargs)


def carried(text: str, weights: str | None = None, allow_code: bool | None = None) -> Carried | None:
    """Read a file that carries its graph; None for the name of a model, and for a checkpoint.

    `allow_code` says whether the code of a TorchScript archive may run; None where a command takes no such file.

    Raises:
        UsageError: weights are to be chosen, of which such a file has one set.
        CheckpointError: the file cannot be read.
    """
    if parse(text).origin:
        return None
    is_code = allow_code is not None and (allow_code or is_script_file(Path(text)))
    if not carries_graph(text) and not is_code:
        return None
    with stage(f"read {text}"):
        found = opened(existing(Path(text)), bool(allow_code))
    if found is not None and weights is not None:
        raise UsageError(f"--weights {weights}: {text} carries its graph, which has one set of weights")
    return found


def resolve(text: str, weights: str | None = None) -> nn.Module | Checkpoint:
    """Build the model, or read the checkpoint, that a name refers to.

    Raises:
        UsageError: the name cannot be understood, or there is nothing of that name.
        FactoryError: the factory raised, or returned something else.
        CheckpointError: the file cannot be read.
    """
    with stage(f"read {text}" if not parse(text).origin else f"make {text}"):
        return _resolved(text, weights)


def _resolved(text: str, weights: str | None) -> nn.Module | Checkpoint:
    reference = parse(text)
    if not reference.origin:
        return open_checkpoint(text, weights)
    in_file = reference.origin.endswith(".py")
    build = _BUILDERS.get(reference.origin, _factory_of_file if in_file else _factory)(reference)
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
    refuse_malformed([model])
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
    place = Path(reference.name)
    return _configured(reference, place / "config.json" if place.is_dir() else place, transformers)


def _timm_configured(reference: Reference, name: str, data: Mapping[str, Any]) -> Callable[..., Any]:
    """Return the builder of a model of timm, of which the Hub has configurations as well."""
    build = _timm(Reference(reference.text, "timm", name))
    sizes = {"num_classes": data["num_classes"]} if "num_classes" in data else {}
    return lambda: build(**sizes, **data.get("model_args", {}))


def _hub(reference: Reference) -> Callable[..., Any]:
    """Return the builder of a model of the Hub, of which the configuration is fetched, and neither code nor weights."""
    name, _, revision = reference.name.partition("@")
    transformers, hub = _imported("transformers", reference), _imported("huggingface_hub", reference)
    try:
        file = hub.hf_hub_download(name, "config.json", revision=revision or None)
    except Exception as error:  # whatever the client raises: no such name, no access, no network
        raise FetchError(
            f"{reference.text}: its config.json cannot be fetched from the Hub, nor is it in the cache: "
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}. "
            "Correct the name, or save the configuration in a folder and give transformers:FOLDER"
        ) from error
    return _configured(reference, Path(file), transformers)


def _configured(reference: Reference, file: Path, transformers: Any) -> Callable[..., Any]:
    """Return the builder of the architecture that a configuration names; code that it names beside is not run."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        if "architecture" in data and "model_type" not in data:
            return _timm_configured(reference, str(data["architecture"]), data)
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
    return _member(reference, _imported(reference.origin, reference))


def _factory_of_file(reference: Reference) -> Callable[..., Any]:
    """Return a callable of a Python file, which is run; what it imports is also found beside it, after what is installed."""
    file = Path(reference.origin)
    if not file.is_file():
        raise UsageError(f"{reference.text}: {file}: no such file in {Path.cwd()}")
    name = f"_fxmap_file_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise UsageError(f"{reference.text}: {file} is no file of Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # as an import does it, for classes that look up their module
    tell(escaped(f"fxmap: running the code of {file.resolve()}"))
    folder = str(file.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        spec.loader.exec_module(module)
    except SystemExit as error:
        raise FactoryError(f"{reference.text}: running {file} called sys.exit({error.code!r})") from error
    except Exception as error:
        raise FactoryError(f"{reference.text}: running {file} raised {type(error).__name__}: {error}") from error
    return _member(reference, module)


def _member(reference: Reference, found: Any) -> Callable[..., Any]:
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
    "hf": _hub,
}


def _split(text: str) -> tuple[str, str]:
    """Split a name at its first colon, or behind a Python file, whose drive or folder may have a colon of its own.

    >>> _split("C:/nets/net.py:build(depth=2)"), _split("timm:resnet18"), _split("a.pth")
    (('C:/nets/net.py', 'build(depth=2)'), ('timm', 'resnet18'), ('', 'a.pth'))
    """
    found = re.match(r"(.+?\.py):(.+)", text)
    if found:
        return found[1], found[2]
    origin, colon, rest = text.partition(":")
    return (origin, rest) if colon else ("", text)


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
