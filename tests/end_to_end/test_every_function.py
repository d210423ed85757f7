"""Every public function leaves models, state dicts, files and the process as they were, whatever the models' code does."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch._C import _functorch
from torch._subclasses.fake_tensor import FakeTensorMode

import fxmap
from fxmap.cli import commands, differences
from tests.end_to_end.test_undisturbed import OTHER, Restless, X, process


@dataclass
class Case:
    """Two models, and what is made of them beforehand."""

    src: Restless
    dst: Restless
    state: dict[str, Tensor]
    mapping: fxmap.KeyMapping
    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / "a.safetensors"


# One for all tests: nothing of it changes but the values of the destination.
@pytest.fixture(scope="module", params=[False, True], ids=["traced", "recorded"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    tmp_path = tmp_path_factory.mktemp("case")
    src, dst = Restless(untraceable=request.param), Restless(OTHER, untraceable=request.param)
    state = {key: value.clone() for key, value in src.state_dict().items()}
    save_file(state, tmp_path / "a.safetensors")
    mapping = fxmap.auto_map(src, dst, example_inputs=X)
    (tmp_path / "mapping.json").write_text(mapping.to_json())
    return Case(src, dst, state, mapping, tmp_path)


SRC = "tests.end_to_end.test_undisturbed:Restless()"
DST = f"tests.end_to_end.test_undisturbed:Restless(names={OTHER!r})"


def _drawing(run: Callable[[], object]) -> object:
    """Run a command, whose factories draw the weights of new models: it has a process of its own."""
    with torch.random.fork_rng():
        return run()


def every(c: Case) -> dict[str, Callable[[], object]]:
    """Return every public function, called on a case."""
    made = c.mapping
    return {
        "auto_map": lambda: fxmap.auto_map(c.src, c.dst, example_inputs=X),
        "auto_map without inputs": lambda: fxmap.auto_map(c.src, c.dst),
        "auto_map of a state dict": lambda: fxmap.auto_map(c.state, c.dst),
        "auto_map of a file": lambda: fxmap.auto_map(c.file, c.dst),
        "verify": lambda: fxmap.verify(c.src, c.dst, made, X),
        "verify by hand": lambda: fxmap.verify(c.src, c.dst, dict(made)),
        "convert": lambda: fxmap.convert(c.file, c.folder / "out", dst=c.dst, src=c.src, example_inputs=X),
        "sqnr": lambda: fxmap.sqnr(torch.ones(3), torch.ones(3)),
        "apply": lambda: made.apply(c.state, like=c.dst.state_dict()),
        "lazy": lambda: dict(made.lazy(c.file)),
        "evaluate": lambda: made.evaluate(c.state),
        "inverse": lambda: made.inverse().apply(made.apply(c.state)),
        "verify_files": lambda: fxmap.verify_files(c.file, c.file, fxmap.KeyMapping({key: key for key in c.state})),
        "load_planner": made.load_planner,
        "to_json": lambda: fxmap.KeyMapping.from_json(made.to_json()),
        "to_python": made.to_python,
        "to_html": lambda: made.to_html(c.folder / "page.html"),
        "to_transformers": made.to_transformers,
        "to_state_dict_adapter": made.to_state_dict_adapter,
        "summary": lambda: (made.summary(all_keys=True), str(made), repr(made), str(made.proof), str(made.trace)),
        "fxmap map": lambda: _drawing(lambda: commands.map_models(SRC, DST)),
        "fxmap map of a file": lambda: _drawing(lambda: commands.map_models(str(c.file), DST)),
        "fxmap explain": lambda: _drawing(lambda: commands.explain(SRC, DST, "fc.weight")),
        "fxmap verify": lambda: _drawing(lambda: commands.verify_file(SRC, DST, c.folder / "mapping.json")),
        "fxmap diff": lambda: _drawing(lambda: differences.diff(str(c.file), DST)),
    }


def writers(c: Case) -> dict[str, Callable[[], object]]:
    """Return what writes into the destination."""
    return {
        "transfer": lambda: fxmap.transfer(c.src, c.dst, example_inputs=X),
        "load": lambda: fxmap.load(c.dst, c.file, src=c.src, example_inputs=X),
        "load of a state dict": lambda: fxmap.load(c.dst, c.state, verify="warn"),
        "load_into": lambda: c.mapping.load_into(c.dst, c.state),
        "fxmap convert": lambda: _drawing(lambda: commands.Conversion(str(c.file), SRC, DST, c.folder / "b.pth").run()),
    }


NAMES = [
    *("auto_map", "auto_map without inputs", "auto_map of a state dict", "auto_map of a file", "verify", "verify by hand"),
    *("convert", "sqnr", "apply", "lazy", "evaluate", "inverse", "verify_files", "load_planner"),
    *("to_json", "to_python", "to_html", "to_transformers"),
    "to_state_dict_adapter",
    *("summary", "fxmap map", "fxmap map of a file", "fxmap explain", "fxmap verify", "fxmap diff"),
]
WRITERS = ["transfer", "load", "load of a state dict", "load_into", "fxmap convert"]


def deep(value: Any, seen: set[int] | None = None) -> Any:
    """Return whatever an object holds, down to numbers, as plain data; tensors with their identity."""
    seen = set() if seen is None else seen
    if isinstance(value, Tensor):
        return ("tensor", id(value), value.requires_grad, value.grad is None, value.dtype, value.detach().clone().tolist())
    if isinstance(value, str | int | float | bool | type(None) | type | bytes):
        return value
    if id(value) in seen:
        return "again"
    seen.add(id(value))
    if isinstance(value, Mapping):
        return [(str(key), deep(part, seen)) for key, part in value.items()]
    if isinstance(value, list | tuple | set):
        return [type(value), *(deep(part, seen) for part in value)]
    if callable(value) and hasattr(value, "__closure__"):
        return [id(value), *(deep(cell.cell_contents, seen) for cell in value.__closure__ or ())]
    return [type(value), deep(vars(value), seen)] if hasattr(value, "__dict__") else str(value)


def files(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.iterdir()}


@contextmanager
def nothing_changed(c: Case, *models: nn.Module) -> Iterator[None]:
    """Check that models, tensors, files and the process are as they were; new files are allowed."""
    before = process(), [deep(model) for model in models], deep(c.state), files(c.folder), sorted(os.listdir("."))
    yield
    assert [(a, b) for a, b in zip(before[0], process(), strict=True) if a != b] == []
    assert before[1] == [deep(model) for model in models]
    assert before[2] == deep(c.state)
    after = files(c.folder)
    assert all(after[name] == stamp for name, stamp in before[3].items())
    assert [name for name in after if name.startswith(".")] == []
    assert before[4] == sorted(os.listdir("."))


def test_the_list_is_whole(case: Case) -> None:
    assert list(every(case)) == NAMES
    assert list(writers(case)) == WRITERS
    named = {name.split(" ")[0] for name in (*NAMES, *WRITERS)}
    functions = {name for name in fxmap.__all__ if callable(getattr(fxmap, name)) and name.islower()}
    assert functions - named == {"file_limits", "progress", "without_weights"}
    methods = {name for name in dir(fxmap.KeyMapping) if name.startswith(("to_", "apply", "inverse", "load", "lazy"))}
    assert methods - named == set()


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_changed(case: Case, name: str) -> None:
    if name == "to_transformers":
        pytest.importorskip("transformers")
    for path in (case.folder / "out", case.folder / "b.pth"):
        shutil.rmtree(path, ignore_errors=True)
        path.unlink(missing_ok=True)
    with nothing_changed(case, case.src, case.dst):
        every(case)[name]()


@pytest.mark.parametrize("name", WRITERS)
def test_what_writes_writes_values_of_the_destination_alone(case: Case, name: str) -> None:
    own = deep([vars(part) for part in case.dst.modules()])
    with nothing_changed(case, case.src):
        writers(case)[name]()
    loaded = {
        OTHER[case.src.names.index(key.partition(".")[0])] + key[key.index(".") :]: key for key in case.state if "." in key
    }
    if name != "fxmap convert":
        assert all(torch.equal(case.dst.state_dict()[b], case.state[a]) for b, a in loaded.items())
    for value in (value for value in case.dst.state_dict().values() if value.is_floating_point()):
        value.zero_()
    assert _without_values(own) == _without_values(deep([vars(part) for part in case.dst.modules()]))


def _without_values(held: Any) -> Any:
    if isinstance(held, tuple) and held and held[0] == "tensor":
        return held[:-1]
    return [_without_values(part) for part in held] if isinstance(held, list | tuple) else held


@pytest.mark.filterwarnings("ignore::fxmap.ProofWarning")
@pytest.mark.parametrize("at", [1, 2, 4])
@pytest.mark.parametrize("name", ["auto_map", "verify", "transfer", "load", "convert"])
def test_nothing_is_changed_where_forward_fails_at_some_call(case: Case, name: str, at: int) -> None:
    case.src.fail_at = case.dst.fail_at = at
    with nothing_changed(case, case.src), suppress(fxmap.FxmapError):
        (every(case) | writers(case))[name]()


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def _transformed(enter: Callable[..., Any], leave: Callable[[], Any], *arguments: Any) -> Iterator[None]:
    """Be inside of a function that torch.func transforms."""
    enter(*arguments)
    try:
        yield
    finally:
        leave()


SURROUNDINGS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "no gradients": torch.no_grad,
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "fake tensors": FakeTensorMode,
    "default device meta": lambda: torch.device("meta"),
    "default dtype float64": lambda: _default_dtype(torch.float64),
    "default dtype bfloat16": lambda: _default_dtype(torch.bfloat16),
    "anomalies": lambda: torch.autograd.set_detect_anomaly(True, check_nan=True),
    "deterministic": _deterministic,
    "a vmap": lambda: _transformed(_functorch._vmap_increment_nesting, _functorch._vmap_decrement_nesting, 3, "error"),
    "a gradient": lambda: _transformed(_functorch._grad_increment_nesting, _functorch._grad_decrement_nesting),
    "as usual": nullcontext,
}


def modes() -> list[Any]:
    """Return the modes that this thread is in."""
    stacks = torch._C._len_torch_dispatch_stack(), torch._C._len_torch_function_stack()
    switches = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")
    transforms = len(_functorch.get_interpreter_stack() or ())
    return [transforms, *stacks, *switches, torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled()]


@pytest.mark.parametrize("around", SURROUNDINGS)
def test_the_caller_may_be_in_any_mode(case: Case, around: str) -> None:
    with nothing_changed(case, case.src), SURROUNDINGS[around]():
        before = modes()
        mapping = fxmap.auto_map(case.src, case.dst, example_inputs=X)
        proof = fxmap.verify(case.src, case.dst, mapping, X)
        without = fxmap.auto_map(case.src, case.dst)
        fxmap.transfer(case.src, case.dst, example_inputs=X)
        assert modes() == before
    assert dict(mapping) == dict(case.mapping)
    assert (mapping.proof.ok, proof.ok) == (case.mapping.proof.ok,) * 2
    assert len(without) == len(mapping)
    assert torch.equal(case.dst.state_dict()["fc.weight"], case.state["body.weight"])
