"""Settings: switches of torch, numpy and Python that belong to the whole process, and that code of a model may change.

Each is a pair of functions, one that says how it stands and one that sets it. Settings are read when a call begins, and set
when it ends where they are no longer what they were.

>>> steps = settings()
>>> sys.path.insert(0, "/elsewhere")
>>> for step in steps:
...     step()
>>> "/elsewhere" in sys.path
False

Not among them: global variables of the user's modules, the umask, tracing and profiling functions (a debugger that is
started inside a model stays), and whatever is outside the process.

Cost: 0.5 ms.
"""

import contextlib
import functools
import gc
import locale
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn.modules import module as modules

Step = Callable[[], object]

_Get = Callable[[], Any]
_Put = Callable[[Any], object]


def settings() -> list[Step]:
    """Return the steps that put every setting back to what it is now."""
    steps: list[Step] = []
    for get, put in (*_of_torch(), *_of_precision(), *_of_numpy(), *_of_python(), *_of_signals()):
        with contextlib.suppress(RuntimeError):  # one that torch cannot tell, as it is set now
            steps.append(functools.partial(_put_back, get, put, get()))
    return steps


def _put_back(get: _Get, put: _Put, before: Any) -> None:
    try:
        differs = get() != before
    except RuntimeError:  # it could be told before, and cannot now
        differs = True
    if differs:
        put(before)


def _of_torch() -> Iterator[tuple[_Get, _Put]]:
    for name in _SWITCHES:
        get, put = getattr(torch._C, f"_get_{name}", None), getattr(torch._C, f"_set_{name}", None)
        if get is not None and put is not None:
            yield get, functools.partial(_spread, put)
    for name in ("flash", "mem_efficient", "math", "cudnn"):
        yield getattr(torch._C, f"_get_{name}_sdp_enabled"), getattr(torch._C, f"_set_sdp_use_{name}")
    yield torch.backends.mha.get_fastpath_enabled, torch.backends.mha.set_fastpath_enabled
    yield torch.get_default_dtype, torch.set_default_dtype
    yield torch.get_num_threads, torch.set_num_threads
    for name in ("overwrite_module_params_on_conversion", "swap_module_params_on_conversion"):
        yield getattr(torch.__future__, f"get_{name}"), getattr(torch.__future__, f"set_{name}")
    yield torch.serialization.get_default_mmap_options, torch.serialization.set_default_mmap_options
    yield torch.sparse.check_sparse_tensor_invariants.is_enabled, torch._C._set_check_sparse_tensor_invariants
    for name in ("enabled", "strategy"):
        yield functools.partial(getattr, torch.backends.opt_einsum, name), functools.partial(_set_einsum, name)
    yield _deterministic, lambda now: torch.use_deterministic_algorithms(now[0], warn_only=now[1])
    yield _anomalies, lambda now: torch.set_anomaly_enabled(*now)
    hooks = [getattr(modules, name) for name in dir(modules) if name.startswith("_global_")]
    for table in (vars(torch._tensor_str.PRINT_OPTS), *hooks):
        if isinstance(table, dict):
            yield functools.partial(dict, table), functools.partial(_fill, table)


# As `torch._C._get_...` and `_set_...` name them; releases of torch do not have all of them.
_SWITCHES = (
    *("cudnn_enabled", "cudnn_benchmark", "cudnn_deterministic", "mkldnn_enabled", "mkldnn_deterministic", "qengine"),
    *("deterministic_fill_uninitialized_memory", "cublas_allow_fp16_reduced_precision_reduction"),
    *("cublas_allow_bf16_reduced_precision_reduction", "nnpack_enabled", "warnAlways"),
    *("linalg_preferred_backend", "blas_preferred_backend"),
)


def _spread(put: Callable[..., object], value: Any) -> None:
    """Set a switch, some of which are told as a tuple, and set by several arguments."""
    put(*value) if isinstance(value, tuple) else put(value)


def _set_einsum(name: str, value: object) -> None:
    with contextlib.suppress(ValueError):  # the package is not installed
        setattr(torch.backends.opt_einsum, name, value)


def _of_precision() -> Iterator[tuple[_Get, _Put]]:
    """Yield how float32 is computed; newer releases of torch refuse to tell by the older names what was set by the newer."""
    yield torch._C._get_float32_matmul_precision, torch._C._set_float32_matmul_precision
    get, put = (getattr(torch._C, f"_{verb}_fp32_precision_{verb}ter", None) for verb in ("get", "set"))
    if get is None or put is None:
        for name in ("cudnn_allow_tf32", "cublas_allow_tf32"):
            yield getattr(torch._C, f"_get_{name}"), getattr(torch._C, f"_set_{name}")
        return
    for place in _PRECISIONS:
        yield functools.partial(get, *place), functools.partial(put, *place)


_PRECISIONS = (("generic", "all"), *((kind, op) for kind in ("cuda", "mkldnn") for op in ("all", "matmul", "conv", "rnn")))


def _deterministic() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _anomalies() -> tuple[bool, bool]:
    return torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()


def _fill(table: dict[Any, Any], values: dict[Any, Any]) -> None:
    table.clear()
    table.update(values)


def _of_numpy() -> Iterator[tuple[_Get, _Put]]:
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None and hasattr(numpy, "set_printoptions"):
        yield numpy.geterr, lambda now: numpy.seterr(**now)
        yield numpy.get_printoptions, lambda now: numpy.set_printoptions(**_known(now))


def _known(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name != "override_repr"}


def _of_python() -> Iterator[tuple[_Get, _Put]]:
    for name in ("stdin", "stdout", "stderr", "excepthook", "displayhook", "unraisablehook"):
        yield functools.partial(getattr, sys, name), functools.partial(setattr, sys, name)
    for name in ("path", "argv"):
        own = getattr(sys, name)
        yield functools.partial(_list, name), functools.partial(_set_list, name, own)
    yield _environment, _set_environment
    yield _folder, _enter
    yield sys.getrecursionlimit, sys.setrecursionlimit
    yield sys.getswitchinterval, sys.setswitchinterval
    yield gc.isenabled, lambda now: gc.enable() if now else gc.disable()
    yield gc.get_threshold, lambda now: gc.set_threshold(*now)
    yield sys.get_int_max_str_digits, sys.set_int_max_str_digits
    yield functools.partial(locale.setlocale, locale.LC_ALL), functools.partial(locale.setlocale, locale.LC_ALL)
    yield socket.getdefaulttimeout, socket.setdefaulttimeout
    yield functools.partial(getattr, threading, "excepthook"), functools.partial(setattr, threading, "excepthook")
    yield lambda: logging.root.manager.disable, logging.disable
    yield lambda: logging.root.level, logging.root.setLevel


def _list(name: str) -> tuple[int, list[Any]]:
    """Return a list of `sys`, and which it is: code may have put another in its place."""
    held = getattr(sys, name)
    return id(held), list(held)


def _set_list(name: str, own: list[Any], before: tuple[int, list[Any]]) -> None:
    # Libraries that are imported on the way may add folders of their own, in which they look for more later on.
    theirs = [part for part in getattr(sys, name) if part not in before[1] and f"{os.sep}site-packages{os.sep}" in str(part)]
    own[:] = [*before[1], *theirs]
    setattr(sys, name, own)


def _environment() -> dict[str, str]:
    return dict(os.environ)


def _set_environment(now: dict[str, str]) -> None:
    for name in [name for name in os.environ if name not in now]:
        del os.environ[name]
    for name, value in now.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


def _folder() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return ""


def _enter(folder: str) -> None:
    if folder:
        with contextlib.suppress(OSError):
            os.chdir(folder)


def _of_signals() -> Iterator[tuple[_Get, _Put]]:
    """Yield the handlers of signals, which the main thread alone may set."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in signal.valid_signals():
        if signal.getsignal(number) is not None:
            yield functools.partial(signal.getsignal, number), functools.partial(_handle, number)


def _handle(number: int, handler: Any) -> None:
    with contextlib.suppress(OSError, ValueError):
        signal.signal(number, handler)
