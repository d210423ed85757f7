"""Open what carries its own graph: ONNX files and models, exported programs, TorchScript.

>>> from torch import fx, nn
>>> program = torch.export.export(nn.Linear(3, 2), (torch.ones(1, 3),))
>>> carried = opened(program)
>>> list(carried.model.state_dict()), carried.inputs[0].shape
(['weight', 'bias'], torch.Size([1, 3]))
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxmap.errors import CheckpointError, shorten
from fxmap.files.atomic import whole_file
from fxmap.files.reading import existing
from fxmap.files.strangers import is_script
from fxmap.model.inputs import as_inputs
from fxmap.model.tensors import tensors_of
from fxmap.sources.layout import in_one_layout
from fxmap.sources.onnx.model import OnnxModel, open_onnx
from fxmap.sources.onnx.spellings.unrolled import unrolled
from fxmap.sources.scaled import begin_behind_scaling
from fxmap.sources.scripted import ScriptedModel


@dataclass(frozen=True)
class Carried:
    """A model that came with its graph, and inputs for it, or None where it names none.

    `save` writes it anew to a path, with the present numbers of the model, whole or not at all; its second argument says
    whether a file that is there is replaced. None for what is only read.
    """

    model: nn.Module
    inputs: Any = None
    save: Callable[[Path, bool], None] | None = None


def opened(source: Any, allow_code: bool = False, example_inputs: Any = None) -> Carried | None:
    """Return the model that a file or an object carries; None where it is something else, such as a checkpoint.

    Args:
        source: the path of an .onnx, .pt2 or TorchScript file; an onnx.ModelProto, a torch.export.ExportedProgram, or a
            scripted or traced module.
        allow_code: let torch's interpreter run the code that a TorchScript file holds.
        example_inputs: what a quantized ONNX graph is run with; by default inputs of the shapes that it declares.

    Raises:
        CheckpointError: the file cannot be read, is TorchScript without `allow_code`, or holds an unknown operator.
    """
    if isinstance(source, torch.jit.ScriptModule):
        return _script(source, example_inputs)
    if isinstance(source, torch.export.ExportedProgram):
        return _program(source)
    if isinstance(source, OnnxModel):
        return _onnx(source, example_inputs)
    if type(source).__module__.startswith("onnx") and hasattr(source, "graph"):
        return _onnx(OnnxModel(source), example_inputs)
    if not isinstance(source, str | Path):
        return None
    path = Path(source)
    if carries_graph(path):
        existing(path)
    if path.suffix == ".onnx":
        return _onnx(open_onnx(path), example_inputs)
    if path.suffix == ".pt2":
        return _program(_read_program(path))
    if is_script_file(path):
        return _script(_read_script(path, allow_code), example_inputs)
    return None


def carries_graph(path: str | Path) -> bool:
    """Whether a name is that of a file that holds its model's graph and can be written anew.

    >>> carries_graph("a.onnx"), carries_graph("a.pt2"), carries_graph("a.pth")
    (True, True, False)
    """
    return Path(path).suffix in (".onnx", ".pt2")


def is_script_file(path: Path) -> bool:
    """Whether a path is that of a TorchScript archive, which is a model with its code.

    >>> is_script_file(Path("nowhere.ts"))
    False
    """
    return path.suffix in _SCRIPTS and path.is_file() and is_script(path)


def unpacked(src: Any, dst: Any, example_inputs: Any, allow_code: bool = False) -> tuple[Any, Any, Any]:
    """Return a source, a destination and their inputs, with models in the place of what carries its graph.

    Inputs that are not given are those that one of the two carries, the source's first.

    Raises:
        CheckpointError: as `opened`.
    """
    ours, theirs = opened(src, allow_code, example_inputs), opened(dst, allow_code, example_inputs)
    one, other = src if ours is None else ours.model, dst if theirs is None else theirs.model
    if isinstance(one, OnnxModel):
        one.read_as_source()
    inputs = [
        in_one_layout(carried.model, carried.inputs, to, example_inputs)
        for carried, to in ((ours, other), (theirs, one))
        if carried is not None
    ]
    if example_inputs is None:
        example_inputs = next((given for given in inputs if given is not None), None)
    if isinstance(one, OnnxModel):
        begin_behind_scaling(one, other, example_inputs)
    return one, other, example_inputs


def take_as_code(src: object, unread: Iterable[str], dst: nn.Module) -> tuple[str, ...]:
    """Take tables of an ONNX file, of which no key of the destination is made, as numbers of its code; return their names.

    Exporters compute beforehand what code makes of constants (cosines of positions, slopes by distance, masks), and do the
    same to weights, so that names do not tell them apart. What holds the numbers of a buffer that the destination keeps out
    of its state dict is such a table as well, under whatever name.

    >>> take_as_code(nn.Linear(2, 2), ["weight"], nn.Linear(2, 2))
    ()
    """
    if not isinstance(src, OnnxModel):
        return ()
    kept = set(dst.state_dict())
    buffers = [value for name, value in dst.named_buffers() if name not in kept and value.is_floating_point()]
    unread = list(unread)
    same = {name for name in unread if any(_are_equal(src.held(name), value) for value in buffers)}
    return src.take_as_code(unread, same)


def _are_equal(one: Tensor, other: Tensor) -> bool:
    alike = one.is_floating_point() and one.numel() == other.numel() and not other.is_meta and one.device == other.device
    return alike and torch.allclose(one.detach().flatten().float(), other.flatten().float(), rtol=1e-6, atol=0.0)


def give_back(src: object, taken: Iterable[str]) -> None:
    """Take such tables as weights again."""
    if isinstance(src, OnnxModel):
        src.give_back(taken)


def told(source: object, model: object, name: str) -> str:
    """Return how Python names what carries its graph, by its path or its argument; empty for a model and a checkpoint.

    >>> told("a.onnx", nn.Linear(2, 2), "src"), told("a.pth", "a.pth", "src")
    ("'a.onnx'", '')
    """
    if source is model or not isinstance(model, nn.Module):
        return ""
    return repr(str(source)) if isinstance(source, str | Path) else name


def lacking(*models: object) -> str:
    """Return a sentence on what is not understood of files: operators, and weights inside of branches; empty for nothing.

    >>> lacking(nn.Linear(2, 2))
    ''
    """
    files = [model for model in models if isinstance(model, OnnxModel)]
    names, held = ([name for model in files for name in getattr(model, part)] for part in ("lacking", "held_inside"))
    told = []
    if names:
        told.append(f"operators of the file that are not known, behind which nothing is mapped: {shorten(names)}")
    if held:
        told.append(f"weights inside of branches or loops of the file, which are no keys: {shorten(held)}")
    if of_code := [name for model in files for name in model.of_code]:
        told.append(f"tables that no key is made of are numbers of the code, as the file has them: {shorten(of_code)}")
    return "; ".join(told)


def has_written_norms(model: object) -> bool:
    """Whether a file has batch norms that its exporter wrote out, whose eps is made up.

    >>> has_written_norms(nn.Linear(2, 2))
    False
    """
    return isinstance(model, OnnxModel) and model.has_written_norms


_SCRIPTS = (".ts", ".pt", ".pth", ".torchscript", ".jit")


def _onnx(model: OnnxModel, example_inputs: Any) -> Carried:
    inputs = tuple(model.example_inputs().values())
    if not model.quantized:
        return Carried(model.eval(), inputs, lambda path, overwrite: model.save(path, overwrite=overwrite))
    given = inputs if example_inputs is None else as_inputs(example_inputs).flat()
    return Carried(unrolled(model, given).eval(), inputs)


def _script(script: torch.jit.ScriptModule, example_inputs: Any) -> Carried:
    """Return a script as a model; a trace takes inputs of the example's extents alone, since it holds numbers for these."""
    model = ScriptedModel(script)
    if model.is_trace and example_inputs is not None:
        given = [tuple(one.shape) for one in tensors_of(list(as_inputs(example_inputs).flat()))]
        _take_alone(model, given, "the script was traced")
    return Carried(model)


def _program(program: torch.export.ExportedProgram) -> Carried:
    model = program.module()
    _without_dtype_guards(model)
    _refuse_other_extents(program, model)

    def save(path: Path, overwrite: bool) -> None:
        _write_program(program, model, path, overwrite)

    if program.example_inputs is None:
        return Carried(model, None, save)
    args, kwargs = program.example_inputs
    return Carried(model, dict(kwargs) if kwargs and not args else tuple(args), save)


def _write_program(program: torch.export.ExportedProgram, model: nn.Module, path: Path, overwrite: bool) -> None:
    """Write a program with the numbers of its module; its graph is as it was."""
    held = model.state_dict()
    with torch.no_grad():
        for key, value in program.state_dict.items():
            if key in held and held[key] is not value:
                value.copy_(held[key])
    with whole_file(path, (OSError, RuntimeError), overwrite=overwrite) as temporary:
        torch.export.save(program, temporary)


def _without_dtype_guards(model: nn.Module) -> None:
    """Remove the assertions that values have the dtypes of the example: a proof runs in float64."""
    if isinstance(model, fx.GraphModule):
        for node in list(model.graph.nodes):
            if node.target is torch.ops.aten._assert_tensor_metadata.default:
                model.graph.erase_node(node)
        model.recompile()


def _refuse_other_extents(program: torch.export.ExportedProgram, model: nn.Module) -> None:
    """Let a program refuse inputs of other extents than those of its export: its graph holds numbers for these."""
    user = set(program.graph_signature.user_inputs)
    values = [node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder" and node.name in user]
    declared = [tuple(n if isinstance(n, int) else None for n in one.shape) for one in values if isinstance(one, Tensor)]
    _take_alone(model, declared, "the program was exported")


def _take_alone(model: nn.Module, declared: Sequence[tuple[int | None, ...]], made: str) -> None:
    """Let a model refuse inputs of other extents than the declared ones; None takes any."""

    def check(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = tensors_of([args, kwargs])
        for extents, value in zip(declared, given, strict=False):
            if len(extents) != value.dim() or any(n not in (None, m) for n, m in zip(extents, value.shape, strict=True)):
                wanted = ["?" if n is None else n for n in extents]
                raise ValueError(f"{made} for the shape {wanted}, not {list(value.shape)}")

    model.register_forward_pre_hook(check, with_kwargs=True)


def _read_program(path: Path) -> torch.export.ExportedProgram:
    try:
        return torch.export.load(path)
    except Exception as error:  # whatever the reader raises on a file that is no program
        raise CheckpointError(f"{path}: no exported program that can be read: {type(error).__name__}: {error}") from error


def _read_script(path: Path, allow_code: bool) -> torch.jit.ScriptModule:
    if not allow_code:
        raise CheckpointError(
            f"{path}: a TorchScript archive: a model with its code. allow_code=True lets torch's interpreter run it; to "
            "read its weights alone, save them by torch.save(torch.jit.load(path).state_dict(), other_path)"
        )
    try:
        script: torch.jit.ScriptModule = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    except Exception as error:  # whatever the reader raises on a damaged archive
        raise CheckpointError(f"{path}: no TorchScript that can be read: {type(error).__name__}: {error}") from error
    return script
