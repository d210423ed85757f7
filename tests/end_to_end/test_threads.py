"""Threads: models may be mapped in several at once, and run in others meanwhile."""

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxmap
from tests.end_to_end.test_undisturbed import OTHER, Restless, X, process


class Attention(nn.Module):
    """Layers that torch has fused kernels and fast paths for."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.add_module(name, nn.TransformerEncoderLayer(8, 2, 16, batch_first=True))
        self.rnn = nn.LSTM(8, 8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        if float(x.sum()) > 1e9:  # keeps symbolic tracing out
            return x
        out: Tensor = self.rnn(self.get_submodule(self.name)(x))[0]
        return out


def _beside(mappers: int, calls: int) -> None:
    """Map in several threads at once while another one runs the same models: all is right, and nothing is changed."""
    traced, dst = Restless(), Restless(OTHER)
    recorded, other, x = Attention("a").eval(), Attention("b").eval(), torch.randn(1, 3, 8)
    plain = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(3), nn.GELU()).eval()
    with torch.no_grad():
        expected = [model(x) for model in (recorded, plain)]
    fxmap.auto_map(nn.Linear(2, 2), nn.Linear(2, 2))  # what is imported late
    before = process()
    errors: list[BaseException] = []
    runs = [0]
    done = threading.Event()

    def guarded(work: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            try:
                work()
            except BaseException as error:
                errors.append(error)

        return run

    def map_all() -> None:
        for _ in range(calls):
            assert fxmap.auto_map(traced, dst, example_inputs=X).proof.ok
            assert len(fxmap.auto_map(recorded, other, example_inputs=x)) == len(other.state_dict())

    def infer() -> None:
        while not done.is_set():
            with torch.no_grad():
                assert all(torch.equal(model(x), value) for model, value in zip((recorded, plain), expected, strict=True))
            runs[0] += 1

    threads = [threading.Thread(target=guarded(map_all)) for _ in range(mappers)]
    ninth = threading.Thread(target=guarded(infer))
    for thread in (*threads, ninth):
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    ninth.join()
    assert errors == []
    assert runs[0]
    assert [(a, b) for a, b in zip(before, process(), strict=True) if a != b] == []


def test_a_model_runs_in_one_thread_while_two_others_map_it() -> None:
    _beside(2, 1)


@pytest.mark.slow
def test_a_model_runs_in_one_thread_while_eight_others_map_it_twenty_times() -> None:
    _beside(8, 20)
