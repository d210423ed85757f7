"""A symbolic trace is given up where code reads, after a write in place, what was written to; else it stays."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

import fxmap
from fxmap.capture.symbolic import capture_symbolic
from fxmap.model.replica import replicate
from fxmap.model.tensors import tensors_of
from fxmap.run.interpreter import ValueInterpreter
from fxmap.testing.planted import randomised

Code = Callable[[Tensor], Tensor]


class Net(nn.Module):
    """A layer and code behind it."""

    def __init__(self, code: Code) -> None:
        super().__init__()
        self.a, self.code = nn.Linear(8, 8), code

    def forward(self, x: Tensor) -> Tensor:
        return self.code(self.a(x))


class Counting(nn.Module):
    """A buffer that forward writes to before it reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(8, 8)
        self.register_buffer("count", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        self.count.add_(1)
        out: Tensor = self.a(x) * self.count
        return out


def relu_and_what_it_was(y: Tensor) -> Tensor:
    return F.relu(y, inplace=True) + y


def relu_by_place(y: Tensor) -> Tensor:
    return F.relu6(y, True) + y


def relu_with_underscore(y: Tensor) -> Tensor:
    return torch.relu_(y) + y


def a_method(y: Tensor) -> Tensor:
    y.mul_(2)
    return y + 1


def augmented_under_two_names(y: Tensor) -> Tensor:
    x = y
    x += 1
    return y * x


def a_view_read_later(y: Tensor) -> Tensor:
    first = y[:, :4]
    y *= 2
    return first


def a_view_written(y: Tensor) -> Tensor:
    y.transpose(0, 1).relu_()
    return y


def parts_of_a_value(y: Tensor) -> Tensor:
    left, _ = torch.chunk(y, 2, 1)
    left.add_(1)
    return y


def into_a_given_tensor(y: Tensor) -> Tensor:
    torch.add(y, 1, out=y)
    return y


def copied(y: Tensor) -> Tensor:
    return torch.zeros_like(y).copy_(y)


STALE = [
    relu_and_what_it_was,
    relu_by_place,
    relu_with_underscore,
    a_method,
    augmented_under_two_names,
    a_view_read_later,
    a_view_written,
    parts_of_a_value,
    into_a_given_tensor,
    copied,
]


def a_chain(y: Tensor) -> Tensor:
    y = F.relu(y, inplace=True)
    y = F.relu6(y.view(-1, 8), True)
    y += 1
    return y.mul_(2).transpose(0, 1)


def a_residual_branch(y: Tensor) -> Tensor:
    out = y * 2
    out += y
    return F.relu(out, inplace=True)


def a_copy_written(y: Tensor) -> Tensor:
    z = y.clone()
    z += 1
    return z + y


def sizes_counted(y: Tensor) -> Tensor:
    rows = y.shape[0]
    half = rows
    half //= 2
    return y.reshape(rows, 8)[:half]


def dropout_in_eval(y: Tensor) -> Tensor:
    return F.dropout(y, 0.5, False, True) + y


def the_shape_of_what_was_written(y: Tensor) -> Tensor:
    z = F.relu(y, inplace=True)
    return z.reshape(y.shape[0], -1)


FAITHFUL = [a_chain, a_residual_branch, a_copy_written, sizes_counted, dropout_in_eval, the_shape_of_what_was_written]


@pytest.mark.parametrize("code", STALE, ids=lambda code: code.__name__)
def test_a_trace_that_reads_an_old_value_is_given_up(code: Code) -> None:
    with pytest.raises(fxmap.CaptureError, match="writes in place"):
        capture_symbolic(replicate(Net(code)))


@pytest.mark.parametrize("code", [code for code in STALE if code is not copied], ids=lambda code: code.__name__)
def test_and_the_recorded_run_is_proven(code: Code) -> None:
    src, dst = randomised(Net(code), 1), randomised(Net(code), 2)
    mapping = fxmap.auto_map(src, dst, example_inputs=torch.randn(4, 8))
    assert mapping.knowledge.rungs == ("recorded run", "recorded run")
    assert mapping.proof.ok, str(mapping)


@pytest.mark.parametrize("code", FAITHFUL, ids=lambda code: code.__name__)
def test_a_trace_stays_where_nobody_reads_the_old_value(code: Code) -> None:
    model, x = randomised(Net(code), 1).eval(), torch.randn(4, 8)
    found = capture_symbolic(replicate(model))
    with torch.no_grad():
        assert torch.equal(tensors_of(ValueInterpreter(found, found.tensors).run(x))[0], model(x))


def test_a_buffer_that_is_written_to_and_read_again() -> None:
    with pytest.raises(fxmap.CaptureError, match="writes in place to its buffer count, which the trace reads"):
        capture_symbolic(replicate(Counting()))


def test_a_model_that_reads_old_values_is_not_one_that_reads_new_ones() -> None:
    src, dst = randomised(Net(relu_and_what_it_was), 1), randomised(Net(lambda y: F.relu(y) + y), 2)
    mapping = fxmap.auto_map(src, dst, example_inputs=torch.randn(4, 8))
    assert not mapping.proof.ok


@pytest.mark.parametrize(
    "name",
    ["resnet18", "densenet121", "mobilenet_v2", "mobilenet_v3_small", "googlenet", "inception_v3", "shufflenet_v2_x0_5"],
)
def test_networks_whose_activations_are_in_place_are_traced(name: str) -> None:
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    with torch.device("meta"):
        model = torchvision.models.get_model(name, **options)
    assert capture_symbolic(replicate(model)).rung == "symbolic trace"
