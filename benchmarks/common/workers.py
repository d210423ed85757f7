"""Run a function on many things, each in a process of its own: a crash or a hang of one does not stop the others."""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch

from benchmarks.common.packages import FOLDERS, append_folders

# What most pairs need; imported once, and not for every pair.
LIBRARIES = ("torch", "torchvision", "timm", "transformers", "fxmap", "benchmarks.common.judge")


@dataclass(frozen=True, slots=True)
class Ended:
    """What came of one process: the results that it sent, and how it failed ("" if it did not)."""

    task: Any
    results: tuple[Any, ...]
    failure: str


def run_all(
    function: Callable[[Any], Iterator[Any]],
    tasks: Sequence[Any],
    *,
    jobs: int = 1,
    seconds: float,
    preload: Sequence[str] = (),
    packages: Sequence[str] = (),
    nested: bool = False,
) -> Iterator[Ended]:
    """Call a function on every task, `jobs` at a time, and yield what came of each, as they end.

    Args:
        function: yields results, which are sent as they come; it is imported by name, so no lambda.
        tasks: what it is called with.
        seconds: a process that takes longer for its task is killed.
        preload: modules that the server imports.
        packages: folders for the end of sys.path.
        nested: whether the function starts processes of its own, by `run_one`.
    """
    os.environ[FOLDERS] = os.pathsep.join(packages)
    # A server imports the libraries once, before any thread exists, and forks for every task.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.common.packages", *preload])
    with ThreadPoolExecutor(jobs) as pool:
        started = [pool.submit(run_one, function, task, seconds, method="forkserver", nested=nested) for task in tasks]
        for future in as_completed(started):
            yield future.result()


def run_one(
    function: Callable[[Any], Iterator[Any]], task: Any, seconds: float, *, method: str = "fork", nested: bool = False
) -> Ended:
    """Call a function on a task in a process of its own; by default one that begins with all that this one has in memory."""
    context: Any = multiprocessing.get_context(method)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(function, task, sender), daemon=not nested)
    process.start()
    sender.close()
    results, failure = _received(receiver, seconds)
    if failure is None:
        process.kill()
        failure = f"stopped after {seconds:g} s"
    process.join()
    if failure == _DIED:
        failure = f"the process died with exit code {process.exitcode}"
    return Ended(task, results, failure)


_DIED = "died"
_START_SECONDS = 300  # for importing libraries, which is not the task's


def _received(receiver: Connection, seconds: float) -> tuple[tuple[Any, ...], str | None]:
    """Collect results until the process says how it ended; None where time is over."""
    results: list[Any] = []
    deadline = time.monotonic() + _START_SECONDS
    while receiver.poll(max(deadline - time.monotonic(), 0)):
        try:
            kind, value = receiver.recv()
        except EOFError:
            return tuple(results), _DIED
        if kind == "begin":
            deadline = time.monotonic() + seconds
        elif kind == "end":
            return tuple(results), value
        else:
            results.append(value)
    return tuple(results), None


def _work(function: Callable[[Any], Iterable[Any]], task: Any, sender: Connection) -> None:
    append_folders()
    torch.set_num_threads(1)
    # Libraries print and warn while they build; only results matter here.
    with open(os.devnull, "w") as null:
        os.dup2(null.fileno(), 1)
        os.dup2(null.fileno(), 2)
        sender.send(("begin", None))
        try:
            for result in function(task):
                sender.send(("result", result))
            sender.send(("end", ""))
        except Exception as error:  # is a result of the benchmark, and told as one
            sender.send(("end", f"{type(error).__name__}: {error}"))
