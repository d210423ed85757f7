"""Inputs guessed without a graph."""

from types import SimpleNamespace

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
    assert {len(inputs.args) for inputs in guess_inputs(nn.Linear(3, 2))} == {1}


def _shapes(*models: nn.Module) -> list[list[tuple[int, ...]]]:
    return [[tuple(value.shape) for value in inputs.flat()] for inputs in guess_inputs(*models)]


def test_a_small_map_is_tried_first_where_no_kernel_is_larger_than_the_last_map() -> None:
    assert _shapes(nn.Conv2d(3, 4, 3))[0] == [(1, 3, 32, 32)]
    strided = nn.Sequential(*(nn.Conv2d(3, 3, 3, 2, 1) for _ in range(4)))
    assert _shapes(strided)[0] == [(1, 3, 64, 64)]


def test_a_linear_layer_over_patches_may_read_an_image() -> None:
    class Patches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.positions = nn.Linear(3 * 8 * 8, 16), torch.zeros(16, 16)

        def forward(self, image: Tensor) -> Tensor:
            return image

    assert [(1, 3, 32, 32)] in _shapes(Patches())


def test_a_layer_that_is_not_torchs_own_tells_its_width() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.in_channels, self.weight = 7, nn.Parameter(torch.zeros(5, 7))

    assert [(2, 7)] in _shapes(Own())


def test_the_extents_of_a_stored_matrix_are_widths() -> None:
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(5, 7))

    assert {(2, 5), (2, 7)} <= {one for (one,) in _shapes(Product())}


def test_columns_of_ids_are_as_many_as_tables() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.tables = nn.Linear(4, 3), nn.ModuleList([nn.Embedding(3, 2), nn.Embedding(4, 2)])

        def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
            return numbers + categories

    assert [(2, 4), (2, 2)] in _shapes(Mixed())


class _Pair(nn.Module):
    """A model that reads ids and, although it is optional by name, something else beside them."""

    def __init__(self, config: object = None) -> None:
        super().__init__()
        self.config = config
        self.table, self.patch = nn.Embedding(20, 8), nn.Conv2d(3, 8, 4, 4)


class Decoding(_Pair):
    def forward(self, input_ids: Tensor, decoder_input_ids: Tensor | None = None) -> Tensor:
        if decoder_input_ids is None:
            raise ValueError("decoder_input_ids is needed")
        return torch.tanh(self.table(input_ids).mean(1, keepdim=True)) + self.table(decoder_input_ids)


class Seeing(_Pair):
    def forward(self, input_ids: Tensor, pixel_values: Tensor | None = None) -> Tensor:
        assert pixel_values is not None
        return self.patch(pixel_values).mean((2, 3)) + torch.tanh(self.table(input_ids)).mean(1)


def test_ids_of_a_decoder_are_guessed_where_the_ids_alone_do_not_run() -> None:
    model = Decoding()
    accepted = [inputs for inputs in guess_inputs(model) if inputs.kwargs]
    assert [tuple(value.shape) for value in accepted[0].flat()] == [(2, 12), (2, 7)]
    assert accepted[0].call(model).shape == (2, 7, 8)


def test_an_image_that_a_configuration_declares_is_guessed_beside_ids() -> None:
    config = SimpleNamespace(vision_config=SimpleNamespace(image_size=16, num_channels=3))
    assert fxmap.auto_map(Seeing(config), Seeing(config)).proof.ok
