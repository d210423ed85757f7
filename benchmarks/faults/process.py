"""Attacks by models that change their process, raise at a call, are interrupted by signals, or transform functions."""

import gc
import locale
import logging
import operator
import os
import random
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from contextvars import ContextVar
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import BaseTorchFunctionMode

import fxmap
from benchmarks.faults.attack import Attack, copies, raw, same

Change = Callable[["Acting", Tensor], Any]


_VARIABLE = ContextVar("variable", default=0)


def around() -> dict[str, Any]:
    """Return what belongs to the process and the thread, by name."""
    mask = os.umask(0o22)
    os.umask(mask)
    return {
        "torch's random state": torch.get_rng_state().tolist(),
        "random states": [random.getstate(), str(np.random.get_state())],
        "default dtype and device": [torch.get_default_dtype(), torch.get_default_device()],
        "gradients": [torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_anomaly_enabled()],
        "autocast": [torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")],
        "modes": [torch._C._len_torch_dispatch_stack(), torch._C._len_torch_function_stack()],
        "transforms": torch._C._functorch.peek_interpreter_stack() is None,
        "modules": [nn.Module.__call__, nn.Module.__getattr__, nn.Module.__setattr__, Tensor.__add__],
        "module hooks": len(torch.nn.modules.module._global_forward_hooks),
        "threads": torch.get_num_threads(),
        "kernels": [
            torch.backends.mha.get_fastpath_enabled(),
            torch._C._get_mkldnn_enabled(),
            torch._C._get_flash_sdp_enabled(),
        ],
        "precision": [torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled()],
        "warning filters": [list(map(str, warnings.filters)), warnings.showwarning],
        "environment": [dict(os.environ), os.getcwd(), list(sys.path), list(sys.argv), locale.setlocale(locale.LC_ALL)],
        "streams": [sys.stdout, sys.stderr, sys.stdin],
        "small numbers": sys.float_info.min / 2 == 0,
        "variables": [_VARIABLE.get(), gc.get_threshold(), torch.is_warn_always_enabled()],
        "interpreter": [sys.getrecursionlimit(), sys.gettrace(), sys.getswitchinterval(), gc.isenabled(), sys.excepthook],
        "signals": [signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)],
        "numpy": [np.geterr(), str(np.get_printoptions())],
        "logging": [logging.getLogger().level, len(logging.getLogger().handlers), logging.root.manager.disable],
    }


def changed(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Name what differs; empty where nothing does."""
    return ", ".join(name for name, value in before.items() if value != now[name])


class Acting(nn.Module):
    """Two layers under given names, and things that its forward does before it runs them."""

    notes: list[int] = []  # noqa: RUF012 - of the class, on purpose
    table = torch.zeros(2)

    def __init__(self, names: tuple[str, str], acts: tuple[Change, ...], reads: bool) -> None:
        super().__init__()
        self.names, self.acts, self.reads, self.calls = names, acts, reads, 0
        for name in names:
            self.add_module(name, nn.Linear(4, 4))
        self.register_buffer("count", torch.zeros(()))
        self.deep = {"a": [{"b": [0]}]}
        self.rows: Any = iter(range(10**9))
        self.space: Any = SimpleNamespace(seen=[])

    def forward(self, x: Tensor) -> Any:
        """Act, then compute."""
        self.calls += 1
        for act in self.acts:
            act(self, x)
        if self.reads and float(x.flatten()[0]) > 10**6:
            return x
        first, second = (self.get_submodule(name) for name in self.names)
        return second(first(x).tanh())


def _weight(model: Acting) -> Tensor:
    weight = model.get_submodule(model.names[0]).weight
    assert isinstance(weight, Tensor)
    return weight


def _hook(*_: Any) -> None:
    return None


def _grads(model: "Acting", x: Tensor) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)


def _enter(context: AbstractContextManager[object]) -> None:
    context.__enter__()


def _set(owner: Any, name: str, value: Any) -> Change:
    return lambda model, x: setattr(owner, name, value)


# What the code of a model does to itself, its class, its thread and its process.
ACTS: tuple[Change, ...] = (
    *(lambda m, x: _weight(m).data.mul_(2), lambda m, x: setattr(_weight(m), "data", torch.ones(4, 4))),
    *(lambda m, x: m.get_buffer("count").add_(1), lambda m, x: m.deep["a"][0]["b"].append(1)),
    *(lambda m, x: m.add_module("new", nn.Linear(1, 1)), lambda m, x: m.register_forward_hook(_hook)),
    *(lambda m, x: m.get_submodule(m.names[0]).register_forward_pre_hook(_hook), lambda m, x: m.train(not m.training)),
    *(lambda m, x: m.requires_grad_(False), lambda m, x: setattr(type(m), "extra", 1), lambda m, x: type(m).notes.append(1)),
    *(_grads, lambda m, x: x.add_(1)),
    *(lambda m, x: torch.manual_seed(3), lambda m, x: random.seed(1), lambda m, x: np.random.seed(2)),
    *(lambda m, x: torch.set_grad_enabled(False), lambda m, x: torch.set_default_dtype(torch.float64)),
    *(lambda m, x: torch.set_default_device("meta"), lambda m, x: torch.set_num_threads(2)),
    *(
        lambda m, x: warnings.simplefilter("error"),
        lambda m, x: warnings.resetwarnings(),
        _set(warnings, "showwarning", _hook),
    ),
    *(lambda m, x: os.environ.update(EVIL="1"), lambda m, x: os.environ.pop("HOME", None), lambda m, x: os.chdir("/")),
    *(lambda m, x: sys.path.insert(0, "/evil"), _set(sys, "path", ["/evil"]), lambda m, x: sys.argv.append("x")),
    *(lambda m, x: sys.setrecursionlimit(5000), _set(sys, "stderr", None), lambda m, x: gc.disable()),
    *(
        lambda m, x: signal.signal(signal.SIGTERM, _hook),
        _set(sys, "excepthook", _hook),
        lambda m, x: sys.setswitchinterval(0.01),
    ),
    *(lambda m, x: np.seterr(all="ignore", divide="raise"), lambda m, x: np.set_printoptions(precision=2)),
    *(lambda m, x: logging.disable(50), lambda m, x: torch.set_float32_matmul_precision("medium")),
    *(
        lambda m, x: torch.use_deterministic_algorithms(True, warn_only=True),
        lambda m, x: torch._C._set_mkldnn_enabled(False),
    ),
    *(lambda m, x: torch.set_flush_denormal(True), lambda m, x: locale.setlocale(locale.LC_ALL, "C")),
    *(lambda m, x: next(m.rows), lambda m, x: m.space.seen.append(1), lambda m, x: type(m).table.add_(1)),
    *(lambda m, x: m.get_buffer("count").resize_(3), lambda m, x: setattr(m.get_buffer("count"), "data", torch.ones(5))),
    *(lambda m, x: gc.set_threshold(10**6), lambda m, x: torch.set_warn_always(True), lambda m, x: _VARIABLE.set(1)),
    *(lambda m, x: torch.backends.mha.set_fastpath_enabled(False), lambda m, x: torch.backends.cuda.enable_flash_sdp(False)),
    *(lambda m, x: _enter(torch.inference_mode()), lambda m, x: _enter(torch.autocast("cpu"))),
    *(lambda m, x: _enter(BaseTorchFunctionMode()), lambda m, x: torch.autograd.set_detect_anomaly(True)),
)


def held(model: Acting) -> list[Any]:
    """Return what a model holds beside the numbers of its tensors."""
    parts = [
        (part.training, sorted(vars(part)), len(part._forward_hooks), len(part._forward_pre_hooks))
        for part in model.modules()
    ]
    tensors = [(id(tensor), tensor.requires_grad, tensor.grad is None) for tensor in model.parameters()]
    own = [model.deep, model.calls, operator.length_hint(model.rows), model.space, type(model).table]
    return [parts, tensors, repr(own), hasattr(type(model), "extra"), list(type(model).notes)]


def _pair(acts: tuple[Change, ...], reads: bool) -> tuple[Acting, Acting]:
    return Acting(("a", "b"), acts, reads).eval(), Acting(("p", "q"), acts, reads).eval()


def _calls(src: Acting, dst: Acting, x: Tensor, made: fxmap.KeyMapping) -> dict[str, Callable[[], object]]:
    state = copies(src.state_dict())
    return {
        "auto_map": lambda: fxmap.auto_map(src, dst, example_inputs=x),
        "auto_map without inputs": lambda: fxmap.auto_map(src, dst),
        "verify": lambda: fxmap.verify(src, dst, made, x),
        "transfer": lambda: fxmap.transfer(src, dst, example_inputs=x, verify="warn"),
        "load": lambda: fxmap.load(dst, state, src=src, example_inputs=x, verify="warn"),
    }


def _made(x: Tensor) -> fxmap.KeyMapping:
    return fxmap.auto_map(*_pair((), False), example_inputs=x, verify=False)


def _tried(
    rng: random.Random,
    acts: tuple[Change, ...],
    passes: Callable[[BaseException], bool] = lambda error: False,
    within: Callable[[Callable[[], object]], object] = lambda call: call(),
) -> str:
    """Call a function on models that act, and look at everything afterwards.

    Args:
        rng: chooses the function and the models.
        acts: what their forward does first.
        passes: tells what may come out of it beside errors of fxmap.
        within: calls the function.
    """
    x = torch.randn(5, 4)
    made = _made(x)
    src, dst = _pair(acts, rng.random() < 0.5)
    name, call = rng.choice(list(_calls(src, dst, x, made).items()))
    writes = name in ("transfer", "load")
    given, before = x.clone(), (around(), held(src), held(dst), copies(src.state_dict()), copies(dst.state_dict()))
    whole = made.apply(before[3], like=before[4])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", fxmap.FaultWarning)
            within(call)
    except fxmap.InternalError as error:
        return f"{name}: {raw(error)}"
    except fxmap.FxmapError as error:
        if not str(error):
            return f"{name}: an error without words"
    except BaseException as error:
        if not passes(error):
            return f"{name}: {raw(error)}"
    if found := changed(before[0], around()):
        return f"{name}: changed: {found}"
    if held(src) != before[1] or held(dst) != before[2] or not same(copies(src.state_dict()), before[3]):
        return f"{name}: a model is changed"
    if not torch.equal(x, given):
        return f"{name}: the example is changed"
    now = copies(dst.state_dict())
    return "" if same(now, before[4]) or (writes and same(now, whole)) else f"{name}: half written"


def changing_models(rng: random.Random, folder: Path) -> str:
    """Run models whose forward changes itself, its class, its thread and its process."""
    return _tried(rng, tuple(rng.sample(ACTS, rng.choice((1, 1, 2, 4)))))


class Strange(Exception):
    """An exception without words that it can say."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


_ENDS = (KeyboardInterrupt, SystemExit, GeneratorExit)
# What an interrupt or an alarm of the user means may never be lost; memory that ran out is passed on as well.
_PASSED = (*_ENDS, MemoryError, TimeoutError)
_RAISED: tuple[type[BaseException], ...] = (
    *(ValueError, RuntimeError, KeyError, AssertionError, StopIteration, NotImplementedError, ZeroDivisionError),
    *(TimeoutError, RecursionError, AttributeError, UnicodeError, OSError, MemoryError, Strange, *_ENDS),
)


def exceptions(rng: random.Random, folder: Path) -> str:
    """Raise an exception at the k-th run of a forward, whichever model's it is."""
    kind, at, runs = rng.choice(_RAISED), int(10 ** rng.uniform(0, 1.7)), [0]

    def act(model: Acting, x: Tensor) -> None:
        runs[0] += 1
        if runs[0] == at:
            raise kind

    return _tried(rng, (act,), lambda error: issubclass(kind, _PASSED) and isinstance(error, kind))


def signals(rng: random.Random, folder: Path) -> str:
    """Let a signal arrive at any moment, whose handler raises as those of timeouts and of Ctrl-C do."""
    kind = rng.choice((KeyboardInterrupt, TimeoutError))

    def raises(*_: Any) -> None:
        raise kind("a signal")

    def within(call: Callable[[], object]) -> None:
        before = signal.signal(signal.SIGALRM, raises)
        try:
            signal.setitimer(signal.ITIMER_REAL, 10 ** rng.uniform(-3, 0))
            call()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    reads = rng.random() < 0.5
    failure = _tried(rng, ((lambda model, x: time.sleep(0)),), lambda error: isinstance(error, kind), within)
    src, dst = _pair((), reads)
    again = fxmap.auto_map(src, dst, example_inputs=torch.randn(5, 4))
    return failure or ("" if again.proof.ok and len(again) >= 4 else f"the next mapping is another: {again.proof}")


def _sine(value: Tensor) -> Tensor:
    return value.sin().sum()


def _functional(model: Acting, x: Tensor) -> Any:
    layer = model.get_submodule(model.names[0])
    return torch.func.functional_call(layer, dict(layer.named_parameters()), (x,))


TRANSFORMS: tuple[Change, ...] = (
    *(
        lambda m, x: torch.vmap(torch.sin)(x),
        lambda m, x: torch.func.grad(_sine)(x),
        lambda m, x: torch.func.hessian(_sine)(x[0]),
    ),
    *(lambda m, x: torch.func.jvp(torch.sin, (x,), (x,)), lambda m, x: torch.func.vjp(torch.sin, x)[1](x)),
    *(lambda m, x: torch.func.jacrev(torch.tanh)(x[0]), lambda m, x: torch.func.jacfwd(torch.tanh)(x[0]), _functional),
    *(lambda m, x: torch.vmap(torch.func.grad(_sine))(x), lambda m, x: torch.func.linearize(torch.sin, x)[0]),
    *(lambda m, x: torch.func.functionalize(torch.sin)(x), lambda m, x: torch.vmap(m.get_submodule(m.names[0]))(x)),
    lambda m, x: torch.vmap(lambda y: y.item())(x),
    *(lambda m, x: torch.utils.checkpoint.checkpoint(torch.sin, x, use_reentrant=False),),
    *(lambda m, x: torch.func.grad(lambda y: y)(x), lambda m, x: torch.vmap(torch.sin, in_dims=5)(x)),
)


def transforms(rng: random.Random, folder: Path) -> str:
    """Run models that transform functions in their forward, and map models inside of a transform."""
    acts = tuple(rng.sample(TRANSFORMS, rng.choice((1, 2, 3))))
    if rng.random() < 0.7:
        return _tried(rng, acts)
    transform = rng.choice((torch.vmap, torch.func.grad, torch.func.functionalize))

    def within(call: Callable[[], object]) -> None:
        def inside(value: Tensor) -> Tensor:
            call()
            return value.sum()

        transform(inside)(torch.ones(3))

    return _tried(rng, acts[:1], within=within)


def attacks() -> Iterator[Attack]:
    """Yield the kinds of attacks on what surrounds a run."""
    yield Attack("changing models", "models, thread and process are as they were", changing_models)
    yield Attack("exceptions", "all or nothing is written; what ends a program passes", exceptions)
    yield Attack("signals", "all or nothing is written; never swallowed; nothing else is changed", signals)
    yield Attack("transforms", "a mapping, or an error of fxmap; no transform is left", transforms)
