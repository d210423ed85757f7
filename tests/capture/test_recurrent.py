"""Recurrent layers and loops over their cells are one graph."""

import pytest
import torch
from torch import Tensor, nn

import fxmap
from fxmap.capture.recurrent import Unrolled
from fxmap.matching.sides import side
from fxmap.model.inputs import as_inputs
from fxmap.testing.planted import randomised

LAYERS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn_tanh": nn.RNN, "rnn_relu": nn.RNN}


@pytest.mark.parametrize("kind", list(LAYERS))
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_cells_step_by_step_compute_what_the_layer_does(kind: str, bidirectional: bool, bias: bool) -> None:
    options = {"nonlinearity": kind[4:]} if kind.startswith("rnn") else {}
    layer = LAYERS[kind](3, 4, num_layers=2, bidirectional=bidirectional, bias=bias, batch_first=bias, **options).eval()
    x = torch.randn(2, 5, 3)
    expected = layer(x)
    with Unrolled():
        actual = layer(x)
    for one, other in zip(torch.utils._pytree.tree_leaves(expected), torch.utils._pytree.tree_leaves(actual), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_layers_with_a_projection_stay_as_they_are() -> None:
    projected, x = nn.LSTM(3, 4, proj_size=2).eval(), torch.randn(5, 2, 3)
    with Unrolled():
        assert torch.equal(projected(x)[0], projected(x)[0])


@pytest.mark.parametrize("kind", list(LAYERS))
@pytest.mark.parametrize("lengths", [[5, 5, 5], [4, 1, 4], [2, 5, 3]])
def test_cells_run_over_packed_sequences_as_the_layer_does(kind: str, lengths: list[int]) -> None:
    options = {"nonlinearity": kind[4:]} if kind.startswith("rnn") else {}
    layer = LAYERS[kind](3, 4, num_layers=2, bidirectional=True, **options).eval()

    def run(x: Tensor) -> list[Tensor]:
        batch = nn.utils.rnn.pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False)
        made, state = layer(batch)
        padded, counts = nn.utils.rnn.pad_packed_sequence(made, padding_value=-1.0, total_length=6)
        return [padded, counts, *torch.utils._pytree.tree_leaves(state)]

    x = torch.randn(5, 3, 3)
    expected = run(x)
    with Unrolled():
        actual = run(x)
    for one, other in zip(expected, actual, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


class Packed(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.add_module(name, nn.GRU(3, 4, bidirectional=True))

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        batch = nn.utils.rnn.pack_padded_sequence(x.tanh(), lengths, enforce_sorted=False)
        return nn.utils.rnn.pad_packed_sequence(getattr(self, self.name)(batch)[0])[0]


def test_a_layer_on_packed_sequences_is_mapped_and_proven() -> None:
    mapping = fxmap.auto_map(
        Packed("a").eval(), Packed("b").eval(), example_inputs=(torch.randn(4, 2, 3), torch.tensor([4, 2]))
    )
    assert mapping.renames == {f"b.{key}": f"a.{key}" for key in nn.GRU(3, 4, bidirectional=True).state_dict()}
    assert mapping.proof.ok, mapping.proof


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.rnn, self.out = (
            nn.Embedding(20, 6),
            nn.LSTM(6, 5, num_layers=2, batch_first=True),
            nn.Linear(5, 20),
        )

    def forward(self, numbers: Tensor) -> Tensor:
        return self.out(self.rnn(self.tokens(numbers))[0])


class Cells(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head, self.upper, self.lower, self.table = (
            nn.Linear(5, 20),
            nn.LSTMCell(5, 5),
            nn.LSTMCell(6, 5),
            nn.Embedding(20, 6),
        )

    def forward(self, numbers: Tensor) -> Tensor:
        x = self.table(numbers)
        one = two = (x.new_zeros(len(x), 5), x.new_zeros(len(x), 5))
        steps = []
        for i in range(x.shape[1]):
            one = self.lower(x[:, i], one)
            two = self.upper(one[0], two)
            steps.append(two[0])
        return self.head(torch.stack(steps, 1))


@pytest.mark.parametrize("turned", [False, True])
def test_a_loop_over_cells_is_the_layer(turned: bool) -> None:
    pair = (Cells(), Layers()) if turned else (Layers(), Cells())
    src, dst = (randomised(model, seed).eval() for seed, model in enumerate(pair))
    x = torch.randint(0, 20, (2, 6))
    mapping = fxmap.auto_map(src, dst, example_inputs=x)
    assert mapping.proof.ok, str(mapping)
    mapping.load_into(dst, src.state_dict())
    assert torch.allclose(src(x), dst(x), atol=1e-6)


def test_a_linear_layer_is_one_operation_whatever_the_layout_of_its_input() -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x.transpose(0, 1))

    ops = side(Turned(), as_inputs(torch.randn(2, 5, 4))).main.ops
    assert [op.kind for op in ops.ops() if op.kind in ("linear", "bmm")] == ["linear"]
