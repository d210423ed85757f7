"""Inputs guessed without a graph."""

import torch
from torch import Tensor, nn

import fxmap
from fxmap.run.guessed import guess_inputs


class Timed(nn.Module):
    """A network whose forward decides by a value, so that it has to be run, and requires a timestep."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(6, width), nn.Linear(1, width), nn.Linear(width, 4)

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        assert timestep.shape == sample.shape[:1]
        if bool(sample.isnan().any()):
            return sample
        return self.third(torch.tanh(self.first(sample)) + torch.tanh(self.second(timestep[:, None].to(sample.dtype))))


class Renamed(Timed):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = self.first, self.second, self.third
        del self.first, self.second, self.third

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        if bool(sample.isnan().any()):
            return sample
        return self.c(torch.tanh(self.a(sample)) + torch.tanh(self.b(timestep[:, None].to(sample.dtype))))


def test_a_required_second_argument_is_guessed() -> None:
    mapping = fxmap.auto_map(Timed(), Renamed())
    assert str(mapping["b.weight"]) == "second.weight"
    assert "guess" not in mapping.status("b.weight")


def test_a_name_says_which_guess_comes_first() -> None:
    class Edges(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 2)

        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            return self.layer(x)[edge_index[0]]

    first = next(guess_inputs(Edges()))
    assert first.args[1].shape[0] == 2
    assert int(first.args[1].max()) < first.args[0].shape[-2]


def test_one_argument_is_guessed_as_before() -> None:
    assert [len(inputs.args) for inputs in guess_inputs(nn.Linear(3, 2))] == [1, 1]
