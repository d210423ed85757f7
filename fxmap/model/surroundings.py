"""Surroundings: everything of a process that code of a model may change, put back when fxmap is done.

Running a model draws random numbers, and may set switches of torch, warning filters, environment variables and the search
path (`fxmap.model.settings`); an interrupt in the middle of a block leaves gradients off, or a mode on torch's stack. What
belongs to a thread is put back by every call. What belongs to the process is noted when the first of several calls that
overlap begins, and put back when the last one ends, so that none of them takes the state in another's middle for the one
before.

>>> @undisturbed
... def careless():
...     torch.manual_seed(7)
...     torch.set_default_dtype(torch.float64)
>>> before = torch.get_rng_state()
>>> careless()
>>> torch.equal(before, torch.get_rng_state()), torch.get_default_dtype()
(True, torch.float32)

Cost: 0.5 ms a call.
"""

import contextvars
import functools
import random
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

import torch
from torch import nn
from torch._subclasses.fake_tensor import unset_fake_temporarily

from fxmap.imports import half_of_imports
from fxmap.model.classes import class_data
from fxmap.model.modes import modes
from fxmap.model.restoring import carry_out, finish_all
from fxmap.model.settings import Step, settings
from fxmap.model.well_formed import refuse_malformed

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def undisturbed(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Return a function that leaves its process and its thread as they were, whatever it calls."""

    @functools.wraps(function)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        models = [value for value in (*args, *kwargs.values()) if isinstance(value, nn.Module)]
        refuse_malformed(models)
        leave = [*_thread(), *class_data(models), *_PROCESS.enter()]
        try:
            with ExitStack() as stack:
                for context in _neutral(models):
                    stack.enter_context(context)
                # Variables of the context, as the precision of decimals, are set in a copy of it.
                return contextvars.copy_context().run(function, *args, **kwargs)
        finally:
            try:
                carry_out(leave)
            except BaseException:
                carry_out(leave)  # an interrupt may have come before the first step
                raise

    return call


def _neutral(models: Sequence[nn.Module]) -> Iterator[AbstractContextManager[object]]:
    """Yield the contexts that undo what the caller may be in: transforms of functions, fake tensors, inference mode, ..."""
    if torch._C._functorch.peek_interpreter_stack() is not None:
        from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

        yield temporarily_clear_interpreter_stack()
    yield unset_fake_temporarily()
    if torch.is_inference_mode_enabled():
        yield torch.inference_mode(False)
    for kind in ("cpu", "cuda"):
        if torch.is_autocast_enabled(kind):
            yield torch.autocast(kind, enabled=False)
    own = next((tensor.device for model in reversed(models) for tensor in (*model.parameters(), *model.buffers())), None)
    if own is not None and own.type == "meta":
        own = torch.device("cpu")  # what is computed beside such models has numbers
    if own is not None and own.type != torch.get_default_device().type:
        yield own


def _thread() -> list[Step]:
    """Return the steps that put back what belongs to this thread: gradients, autocast, and the stacks of modes."""
    grad = torch.is_grad_enabled()
    key = torch._C.DispatchKey.Functionalize
    functional = torch._C._dispatch_tls_is_dispatch_key_included(key)
    held, kept = vars(torch._GLOBAL_DEVICE_CONTEXT), dict(vars(torch._GLOBAL_DEVICE_CONTEXT))

    def put_back_device() -> None:
        held.clear()
        held.update(kept)

    return [
        finish_all,
        modes(),
        put_back_device,
        lambda: torch._C._dispatch_tls_set_dispatch_key_included(key, functional),
        lambda: torch._C._set_grad_enabled(grad),
        *_autocast(),
        _denormal(),
        _saved_tensors(),
    ]


def _denormal() -> Step:
    """Return the step that puts back whether this thread takes the smallest numbers for 0."""
    before = _flushes()

    def put_back() -> None:
        if _flushes() != before:
            torch.set_flush_denormal(before)

    return put_back


def _flushes() -> bool:
    return sys.float_info.min / 2 == 0.0


def _saved_tensors() -> Step:
    """Return the step that drops the hooks of saved tensors that a block which was left has pushed."""
    top: Any = functools.partial(torch._C._autograd._top_saved_tensors_default_hooks, True)
    before = top()

    def put_back() -> None:
        while (held := top()) is not None and held != before:
            torch._C._autograd._pop_saved_tensors_default_hooks()

    return put_back


def _autocast() -> Iterator[Step]:
    """Yield the steps that put back whether this thread computes in lower precision, and in which."""
    for kind in ("cpu", "cuda"):
        yield functools.partial(torch.set_autocast_enabled, kind, torch.is_autocast_enabled(kind))
        yield functools.partial(torch.set_autocast_dtype, kind, torch.get_autocast_dtype(kind))
    yield functools.partial(torch.set_autocast_cache_enabled, torch.is_autocast_cache_enabled())
    yield functools.partial(torch.autograd.set_multithreading_enabled, torch._C._is_multithreading_enabled())


@dataclass
class _Process:
    """The state of the process, and how many calls are running."""

    lock: Any = field(default_factory=threading.RLock)
    running: int = 0
    steps: list[Step] = field(default_factory=list)

    def enter(self) -> list[Step]:
        """Note the state if no other call is running; return the step that leaves."""
        with self.lock:
            if not self.running:
                self.steps = _process()
            self.running += 1
        left: list[bool] = []

        def leave() -> None:
            with self.lock:
                if not left:
                    left.append(True)
                    self.running -= 1
                if not self.running:
                    carry_out(self.steps)

        return [leave]


_PROCESS = _Process()


def _process() -> list[Step]:
    """Return the steps that put back random states, settings, warning filters, and half of an import."""
    return [_random_state(), *settings(), _filters(), half_of_imports()]


def _random_state() -> Step:
    states: list[Step] = [
        functools.partial(torch.set_rng_state, torch.get_rng_state()),
        functools.partial(random.setstate, random.getstate()),
    ]
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states.append(functools.partial(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all()))
    numpy: Any = sys.modules.get("numpy.random")
    if numpy is not None:
        states.append(functools.partial(numpy.set_state, numpy.get_state()))
    return lambda: carry_out(states)


def _filters() -> Step:
    table: Any = warnings.filters
    before, show = list(table), warnings.showwarning

    def put_back() -> None:
        if warnings.filters is not table or list(table) != before:
            warnings.filters = table
            table[:] = before
            getattr(warnings, "_filters_mutated", lambda: None)()
        warnings.showwarning = show

    return put_back
