"""Attacks by models: code that returns, raises and changes what it likes, interrupts at any call, and threads."""

import os
import random
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

import fxmap
from benchmarks.faults.attack import Attack, copies, raw, same
from fxmap.files.checkpoint import read
from fxmap.files.writing import save

# What code makes of a layer's result.
_CHANGES: tuple[Callable[[Tensor], Any], ...] = (
    *(lambda y: y, lambda y: y.to_sparse(), lambda y: y.to_sparse_csr(), lambda y: y.to(torch.float8_e5m2)),
    *(lambda y: y.sum().expand(10**5, 10**4), lambda y: torch.nn.functional.dropout(y, 0.5, True)),
    *(lambda y: y[:, :1].expand(-1, 99), lambda y: y.sum().expand(3), lambda y: torch.complex(y, y), lambda y: None),
    *(lambda y: {1: y, "b": [y, None]}, lambda y: (10 * y).long(), lambda y: (10 * y).abs().to(torch.uint16)),
    *(lambda y: y[:0], lambda y: float(y.sum()), lambda y: y[: int(y.abs().sum() * 10) % 3], list),
    *(lambda y: [row for row in y if row[0] > 0], lambda y: y[y[:, 0] > 0], lambda y: y.nonzero(), lambda y: y.unique()),
    *(
        lambda y: y + torch.empty(4).uniform_()[0],
        lambda y: y * torch.empty(4).random_(1, 3),
        lambda y: y / int(y.sum() * 0),
    ),
    *(lambda y: y / (1 // 0), lambda y: {"a": y}["b"], lambda y: next(iter(())), lambda y: y.copy_(torch.ones(4))),
    *(lambda y: y.requires_grad_(), lambda y: y.detach().resize_(20), lambda y: torch.tensor(y.tolist())),
    *(lambda y: torch.nested.nested_tensor([y[0]]), lambda y: y.to("meta"), lambda y: y.set_(torch.ones(2, 4))),
    *(lambda y: torch.quantize_per_tensor(y, 0.1, 0, torch.qint8), lambda y: torch.linalg.svd(y)[1], lambda y: y.sort()[0]),
    *(torch.func.vmap(torch.sin), lambda y: y.max(0), lambda y: y.softmax(0).topk(2).indices.float() @ y[:2]),
)
_LAYERS: tuple[Callable[[], nn.Module], ...] = (
    *(lambda: nn.Linear(4, 4), lambda: nn.LazyLinear(4), lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))),
    *(lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), lambda: nn.Bilinear(4, 4, 4), lambda: nn.GRUCell(4, 4)),
    *(lambda: nn.Unflatten(1, (4, 1)), lambda: nn.InstanceNorm1d(4, track_running_stats=True), lambda: nn.LSTM(4, 4)),
    *(lambda: nn.Embedding(9, 4, max_norm=0.5), lambda: nn.MultiheadAttention(4, 2), lambda: nn.Linear(4, 4).double()),
)


class Odd(nn.Module):
    """A layer behind another, a counter, and code that changes the result."""

    def __init__(self, names: tuple[str, str], layer: nn.Module, change: Callable[[Tensor], Any], reads: bool) -> None:
        super().__init__()
        self.names, self.change, self.reads = names, change, reads
        self.add_module(names[0], nn.Linear(4, 4))
        self.add_module(names[1], layer)
        self.register_buffer("count", torch.zeros(()))
        self.notes = {"runs": 0}

    def forward(self, x: Tensor) -> Any:
        """Run both layers, and count."""
        first, second = (self.get_submodule(name) for name in self.names)
        self.count: Tensor = self.count + 1
        self.notes["runs"] += 1
        if self.reads and int(x.flatten()[0]) > 10**6:
            return x
        y = first(x)
        y = second(y, y) if isinstance(second, nn.Bilinear) else second(y)
        return self.change(y[0] if isinstance(y, tuple) else y)


def odd_pair(rng: random.Random) -> tuple[Odd, Odd]:
    """Return two models of one function under other names."""
    layer, change, reads = rng.choice(_LAYERS), rng.choice(_CHANGES), rng.random() < 0.5
    torch.manual_seed(rng.randrange(9))
    return Odd(("a", "b"), layer(), change, reads), Odd(("p", "q"), layer(), change, reads)


def _around() -> list[Any]:
    """Return what belongs to the process and the thread."""
    return [
        torch.get_rng_state().tolist(),
        random.getstate(),
        *(torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads(), torch.backends.mkldnn.enabled),
        *(torch.backends.mha.get_fastpath_enabled(), torch._C._len_torch_dispatch_stack(), list(warnings.filters)),
        *(torch._C._len_torch_function_stack(), nn.Module.__call__, nn.Module.__getattr__, list(sys.path)),
    ]


def _held(model: nn.Module) -> list[Any]:
    modules = [(part.training, sorted(vars(part)), len(part._forward_hooks)) for part in model.modules()]
    return [modules, repr(getattr(model, "notes", None)), [(id(t), t.requires_grad) for t in model.parameters()]]


def _numbers(model: nn.Module) -> dict[str, Any]:
    return copies({key: value for key, value in model.state_dict().items() if not is_lazy(value)})


def odd_models(rng: random.Random, folder: Path) -> str:
    """Map models that return, raise and change what they like, with inputs or without."""
    src, dst = odd_pair(rng)
    x = rng.choice((None, None, torch.randn(5, 4), torch.randn(2, 3, 4), torch.zeros(0, 4), torch.randn(3, 4).to("meta")))
    call = rng.choice(("map", "map", "verify", "transfer", "transfer"))
    before = [_around(), _held(src), _held(dst)], _numbers(src), _numbers(dst)
    mapping: Any = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", fxmap.FaultWarning)
            if call == "transfer":
                fxmap.transfer(src, dst, example_inputs=x, verify=rng.choice((True, False, "warn")))
            else:
                mapping = fxmap.auto_map(src, dst, example_inputs=x)
            if call == "verify":
                fxmap.verify(src, dst, mapping, x)
    except fxmap.InternalError as error:
        return raw(error)
    except fxmap.FxmapError as error:
        if not str(error) or not same(before[2], _numbers(dst)):
            return "half written" if str(error) else "no words"
    except Exception as error:
        return raw(error)
    if mapping is not None and "\n" in mapping.proof.reason:
        return f"a reason of several lines: {mapping.proof.reason!r}"[:200]
    now = [_around(), _held(src), _held(dst)], _numbers(src)
    return "" if before[0] == now[0] and same(before[1], now[1]) else "something is changed"


def _interrupted(call: Callable[[], object], at: int, error: type[BaseException]) -> None:
    """Call a function, and raise an error at the start of the k-th call of a Python function inside it."""
    count = 0

    def profile(frame: Any, event: str, _: Any) -> None:
        nonlocal count
        count += event == "call"
        if event == "call" and count == at:
            raise error

    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)


def _at_a_line(call: Callable[[], object], at: int, error: type[BaseException]) -> None:
    """Call a function, and raise an error at the k-th line of fxmap or of torch's modules that runs."""
    count = 0

    def line(frame: Any, event: str, _: Any) -> Any:
        nonlocal count
        count += event == "line"
        if event == "line" and count == at:
            raise error
        return line

    def enter(frame: Any, event: str, _: Any) -> Any:
        file = frame.f_code.co_filename
        return line if f"{os.sep}fxmap{os.sep}" in file or f"torch{os.sep}nn{os.sep}" in file else None

    sys.settrace(enter)
    try:
        call()
    finally:
        sys.settrace(None)


def interrupts(rng: random.Random, folder: Path) -> str:
    """Interrupt mapping, proof, loading, transfer, saving and conversion at any call, or at any line."""
    x, reads = torch.randn(5, 4), rng.random() < 0.5
    src, dst = (Odd(names, nn.LayerNorm(4), _CHANGES[0], reads).eval() for names in (("a", "b"), ("p", "q")))
    state, file = _numbers(src), folder / f"a.{rng.choice(('safetensors', 'pth'))}"
    save(state, file)
    made = fxmap.auto_map(src, dst, verify=False, example_inputs=x)
    stages: dict[str, tuple[Callable[[], object], float]] = {
        "map": (lambda: fxmap.auto_map(src, dst, example_inputs=x), 4.8),
        "verify": (lambda: fxmap.verify(src, dst, made, x), 4.8),
        "load": (lambda: fxmap.load(dst, file, src=src, example_inputs=x, verify=False), 4.3),
        "transfer": (lambda: fxmap.transfer(src, dst, example_inputs=x, verify=False), 4.3),
        "load_into": (lambda: made.load_into(dst, state), 3.5),
        "save": (lambda: save(state, folder / f"new{file.suffix}"), 2.8),
        "convert": (lambda: fxmap.convert(file, folder / "out", dst=dst, src=src, verify=False, example_inputs=x), 4.3),
    }
    name = rng.choice(list(stages))
    call, most = stages[name]
    before, whole = ([_around(), _held(src), _held(dst)], _numbers(dst)), made.apply(state, like=dst.state_dict())
    error = rng.choice((KeyboardInterrupt, KeyboardInterrupt, MemoryError))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            at = int(10 ** rng.uniform(0, most))
            _interrupted(call, at, error) if rng.random() < 0.5 else _at_a_line(call, 2 * at, error)
    except (error, fxmap.FxmapError):
        pass
    except BaseException as other:
        return f"{name}: {raw(other)}"
    if before[0] != [_around(), _held(src), _held(dst)] or not same(state, _numbers(src)):
        return f"{name}: something is changed"
    if not same(before[1], _numbers(dst)) and not same(whole, _numbers(dst)):
        return f"{name}: half written"
    new = folder / f"new{file.suffix}"
    return "" if not new.exists() or same(state, read(new)) else f"{name}: half a file"


def threads(rng: random.Random, folder: Path) -> str:
    """Map and load in several threads at once, beside one that runs the same models."""
    reads = rng.random() < 0.5
    src, dst = (Odd(names, nn.LayerNorm(4), _CHANGES[0], reads).eval() for names in (("a", "b"), ("p", "q")))
    x = torch.randn(5, 4)
    plain = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).eval()
    with torch.no_grad():
        expected = plain(x[None])
    before, errors, done = _around(), list[str](), threading.Event()

    def guarded(work: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            try:
                work()
            except BaseException as error:
                errors.append(raw(error))

        return run

    def maps() -> None:
        own = Odd(("p", "q"), nn.LayerNorm(4), _CHANGES[0], reads).eval()
        if len(fxmap.auto_map(src, dst, example_inputs=x)) < 4 or not fxmap.transfer(src, own, example_inputs=x).ok:
            errors.append("another mapping")

    def runs() -> None:
        while not done.is_set():
            with torch.no_grad():
                if not torch.equal(plain(x[None]), expected) or type(src(x)) is not Tensor:
                    errors.append("another output")

    mappers = [threading.Thread(target=guarded(maps)) for _ in range(rng.choice((2, 4, 8)))]
    runner = threading.Thread(target=guarded(runs))
    for thread in (*mappers, runner):
        thread.start()
    for thread in mappers:
        thread.join()
    done.set()
    runner.join()
    # New models drew random numbers.
    return errors[0] if errors else "" if before[1:] == _around()[1:] else "something is changed"


def attacks() -> Iterator[Attack]:
    """Yield the kinds of attacks by models."""
    yield Attack("odd models", "a mapping, or an error of fxmap; nothing is changed, no fault", odd_models)
    yield Attack("interrupts", "all or nothing is written; nothing else is changed", interrupts)
    yield Attack("threads", "as in one; who runs the models sees nothing", threads)
