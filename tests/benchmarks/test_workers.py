import os
import time
from collections.abc import Iterator

from benchmarks.common.workers import run_all


def work(task: str) -> Iterator[str]:
    yield f"{task} began"
    if task == "crash":
        os._exit(7)
    if task == "hang":
        time.sleep(60)
    if task == "raise":
        raise ValueError("no")
    yield f"{task} ended"


def test_a_crash_or_a_hang_of_one_task_does_not_stop_the_others() -> None:
    tasks = ["crash", "hang", "raise", "fine"]
    ended = {end.task: end for end in run_all(work, tasks, jobs=4, seconds=1)}
    assert {task: end.failure for task, end in ended.items()} == {
        "crash": "the process died with exit code 7",
        "hang": "stopped after 1 s",
        "raise": "ValueError: no",
        "fine": "",
    }
    assert ended["fine"].results == ("fine began", "fine ended")
    assert ended["hang"].results == ("hang began",)
