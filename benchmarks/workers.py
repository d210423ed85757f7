"""Run a function on many things, each in a process of its own: a crash or a hang of one does not stop the others."""

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch

# What most pairs need; imported once, and not for every pair.
LIBRARIES = ("torch", "torchvision", "timm", "transformers", "fxmap", "benchmarks.judge")


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
    packages: str = "",
) -> Iterator[Ended]:
    """Call a function on every task, `jobs` at a time, and yield what came of each, as they end.

    Args:
        function: yields results, which are sent as they come; it is imported by name, so no lambda.
        tasks: what it is called with.
        seconds: a process that takes longer for its task is killed.
        preload: modules that the server imports.
        packages: a folder for the end of sys.path.
    """
    # A server imports the libraries once, before any thread exists, and forks for every task.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))

    def one(task: Any) -> Ended:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(function, task, sender, packages), daemon=True)
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

    with ThreadPoolExecutor(jobs) as pool:
        for future in as_completed([pool.submit(one, task) for task in tasks]):
            yield future.result()


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


def _work(function: Callable[[Any], Iterable[Any]], task: Any, sender: Connection, packages: str) -> None:
    if packages:
        sys.path.append(packages)
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
