"""What code of a model sets in the process, or in its classes, is as it was when a call of fxmap ends."""

import gc
import io
import locale
import logging
import os
import signal
import socket
import sys
import threading
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxmap
from fxmap.model.replica import replicate
from fxmap.model.settings import settings

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))

_VARIABLE = ContextVar("variable", default=0)

# What a forward does, and how what it does is seen.
HARM: dict[str, tuple[Callable[[], object], Callable[[], Any]]] = {
    "a variable of the environment": (lambda: os.environ.update(FXMAP_TEST="1"), lambda: dict(os.environ)),
    "the search path": (lambda: sys.path.insert(0, "/elsewhere"), lambda: (id(sys.path), list(sys.path))),
    "another search path": (lambda: setattr(sys, "path", ["/elsewhere"]), lambda: (id(sys.path), list(sys.path))),
    "the folder": (lambda: os.chdir("/"), os.getcwd),
    "stdout": (lambda: setattr(sys, "stdout", io.StringIO()), lambda: sys.stdout),
    "the limit of recursion": (lambda: sys.setrecursionlimit(sys.getrecursionlimit() + 1), sys.getrecursionlimit),
    "garbage": (gc.disable, gc.isenabled),
    "a signal": (lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN), lambda: signal.getsignal(signal.SIGTERM)),
    "logging": (lambda: logging.disable(logging.CRITICAL), lambda: logging.root.manager.disable),
    "errors of numpy": (lambda: np.seterr(all="raise"), np.geterr),
    "how tensors are printed": (lambda: torch.set_printoptions(precision=2), lambda: str(torch.tensor(1 / 3))),
    "the precision of products": (lambda: torch.set_float32_matmul_precision("medium"), torch.get_float32_matmul_precision),
    "tf32": (lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True), lambda: torch.backends.cuda.matmul.allow_tf32),
    "deterministic": (
        lambda: torch.use_deterministic_algorithms(True, warn_only=True),
        torch.are_deterministic_algorithms_enabled,
    ),
    "anomalies": (lambda: torch.set_anomaly_enabled(True), torch.is_anomaly_enabled),
    "autocast": (lambda: torch.set_autocast_dtype("cpu", torch.float16), lambda: torch.get_autocast_dtype("cpu")),
    "the default device": (lambda: torch.set_default_device("meta"), torch.get_default_device),
    "the smallest numbers": (lambda: torch.set_flush_denormal(True), lambda: sys.float_info.min / 2 == 0),
    "warnings of torch": (lambda: torch.set_warn_always(True), torch.is_warn_always_enabled),
    "the language": (lambda: locale.setlocale(locale.LC_ALL, "C"), lambda: locale.setlocale(locale.LC_ALL)),
    "exceptions of threads": (lambda: setattr(threading, "excepthook", print), lambda: threading.excepthook),
    "exceptions of destructors": (lambda: setattr(sys, "unraisablehook", print), lambda: sys.unraisablehook),
    "waiting for sockets": (lambda: socket.setdefaulttimeout(3), socket.getdefaulttimeout),
    "files that are mapped": (
        lambda: torch.serialization.set_default_mmap_options(1),
        torch.serialization.get_default_mmap_options,
    ),
    "how modules are converted": (
        lambda: torch.__future__.set_swap_module_params_on_conversion(True),
        torch.__future__.get_swap_module_params_on_conversion,
    ),
    "checks of sparse tensors": (
        torch.sparse.check_sparse_tensor_invariants.enable,
        torch.sparse.check_sparse_tensor_invariants.is_enabled,
    ),
    "when garbage is looked for": (lambda: gc.set_threshold(10**6), gc.get_threshold),
    "how long numbers may be": (lambda: sys.set_int_max_str_digits(0), sys.get_int_max_str_digits),
    "a variable of the context": (lambda: _VARIABLE.set(7), _VARIABLE.get),
    "sums in bfloat16": (
        lambda: setattr(torch.backends.cuda.matmul, "allow_bf16_reduced_precision_reduction", False),
        lambda: torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction,
    ),
    "the order of contractions": (
        lambda: setattr(torch.backends.opt_einsum, "strategy", "greedy"),
        lambda: torch.backends.opt_einsum.strategy,
    ),
    "nnpack": (lambda: torch._C._set_nnpack_enabled(False), torch._C._get_nnpack_enabled),
    "linear algebra": (
        lambda: torch.backends.cuda.preferred_linalg_library("cusolver"),
        lambda: str(torch._C._get_linalg_preferred_backend()),
    ),
    "hooks of saved tensors": (
        lambda: torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t).__enter__(),
        lambda: torch._C._autograd._top_saved_tensors_default_hooks(True),
    ),
    "hooks of all modules": (
        lambda: torch.nn.modules.module.register_module_forward_hook(lambda *_: None),
        lambda: len(torch.nn.modules.module._global_forward_hooks),
    ),
}


class Setting(nn.Module):
    """A model whose forward sets something in the process, and counts in its class."""

    calls = 0
    seen: ClassVar[list[Any]] = []
    tables: ClassVar[dict[str, Any]] = {}
    constant: ClassVar[Tensor] = torch.zeros(2)

    def __init__(self, name: str, harm: Callable[[], object]) -> None:
        super().__init__()
        self.name, self.harm = name, harm
        self.add_module(name, nn.Linear(4, 2))

    def forward(self, x: Tensor) -> Any:
        type(self).calls += 1
        self.seen.append(x)
        self.tables["mask"] = x
        self.constant.add_(1)
        result = self.get_submodule(self.name)(x)
        self.harm()
        return result


@pytest.mark.parametrize("name", HARM)
def test_what_forward_sets_is_put_back(name: str) -> None:
    harm, look = HARM[name]
    src, dst = Setting("a", harm), Setting("b", harm)
    before = look()
    mapping = fxmap.auto_map(src, dst, example_inputs=X)
    assert look() == before
    assert mapping.renames == {"b.weight": "a.weight", "b.bias": "a.bias"}


def test_a_class_has_what_it_had() -> None:
    table = torch.ones(2)
    Setting.tables["own"] = table
    try:
        fxmap.auto_map(Setting("a", lambda: None), Setting("b", lambda: None), example_inputs=X)
        assert (Setting.calls, Setting.seen, list(Setting.tables)) == (0, [], ["own"])
        assert Setting.tables["own"] is table
        assert not Setting.constant.any()
    finally:
        Setting.tables.clear()


def test_a_precision_that_torch_does_not_tell_is_no_fault() -> None:
    setter = getattr(torch._C, "_set_fp32_precision_setter", None)
    if setter is None:
        pytest.skip("an older torch")
    setter("cuda", "matmul", "tf32")  # beside the other names, which then refuse to tell
    try:
        assert settings()
        assert fxmap.auto_map(nn.Linear(2, 2), nn.Linear(2, 2)).proof.ok
    finally:
        setter("cuda", "matmul", "none")


class Above(nn.Module):
    """A layer that writes to its owner by a weak reference."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.calls = name, 0
        self.add_module(name, nn.Linear(4, 2))
        self.owner = weakref.ref(self)
        # torch would take a proxy for a part of the model.
        self.__dict__["proxy"] = weakref.proxy(self)

    def forward(self, x: Tensor) -> Any:
        owner = self.owner()
        assert owner is not None
        owner.calls += 1
        self.__dict__["proxy"].calls += 1
        return self.get_submodule(self.name)(x)


def test_weak_references_lead_to_the_replica() -> None:
    src, dst = Above("a"), Above("b")
    twin: Any = replicate(src)
    assert twin.owner() is twin
    assert fxmap.auto_map(src, dst, example_inputs=X).proof.ok
    assert (src.calls, dst.calls) == (0, 0)
