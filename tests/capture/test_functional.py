"""Functional recordings: what writes in place is part of the graph, and nothing that it changes is changed for the user."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

import fxmap
from fxmap.capture.captured import Captured
from fxmap.capture.recorded import capture_run
from fxmap.model.inputs import as_inputs
from fxmap.model.replica import replicate
from fxmap.model.tensors import tensors_of
from fxmap.run.interpreter import ValueInterpreter
from fxmap.testing.planted import randomised
from tests.capture.writing import (
    FORMS,
    Code,
    Net,
    X,
    a_list_filled_in_a_loop,
    a_mask_set_to_a_number,
    a_rectangle_of_a_map,
    a_slice_of_zeros,
    a_swap,
    added_into_a_given_tensor,
    copied_into_a_buffer,
    lists_of_tensors,
    multiplied_into_a_slice,
    one_channel_plus_one,
    steps_that_read_the_last_one,
    views_written_one_after_the_other,
)


def captured(code: Code) -> Captured:
    return capture_run(replicate(randomised(Net(code), 1)), as_inputs(X.clone()))


def other_tensors(found: Captured, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        path: torch.rand(t.shape, generator=generator, dtype=torch.float64) if t.is_floating_point() else t + 3
        for path, t in found.tensors.items()
    }


@pytest.mark.parametrize("code", FORMS.values(), ids=FORMS.keys())
def test_the_graph_computes_what_the_code_does(code: Code) -> None:
    found = captured(code)
    assert not found.mutations
    assert not [node for node in found.graph.nodes if str(node.target).endswith("_") or ".out" in str(node.target)]
    model = randomised(Net(code), 1).eval()
    with torch.no_grad():
        graph = ValueInterpreter(found, found.tensors).run(X.clone())
        assert torch.allclose(tensors_of(graph)[0], model(X.clone()), atol=1e-6)


@pytest.mark.parametrize("code", FORMS.values(), ids=FORMS.keys())
def test_and_with_other_tensors_and_inputs(code: Code) -> None:
    found, x = captured(code), torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(5)).double()
    tensors = other_tensors(found, 3)
    model = Net(code).double().eval()
    with torch.no_grad():
        graph = ValueInterpreter(found, tensors).run(x.clone())
        own = functional_call(model, {path: t.clone() for path, t in tensors.items()}, (x.clone(),))
    assert torch.allclose(tensors_of(graph)[0], own, atol=1e-9)


@pytest.mark.parametrize("code", FORMS.values(), ids=FORMS.keys())
def test_nothing_of_the_user_is_written_to(code: Code) -> None:
    model, x = randomised(Net(code), 1), X.clone()
    before = {path: tensor.clone() for path, tensor in model.state_dict().items()}
    capture_run(replicate(model), as_inputs(x))
    assert torch.equal(x, X)
    assert all(torch.equal(before[path], tensor) for path, tensor in model.state_dict().items())
    assert torch.equal(model.cache, torch.zeros(6, 8))


def join_of_zeros(y: Tensor, _: Net) -> Tensor:
    return y + F.pad(F.relu(y[:, :-1]), (0, 0, 1, 0))


def channels_joined(y: Tensor, _: Net) -> Tensor:
    return torch.cat([y[..., :1] + 1, y[..., 1:]], -1)


def a_masked_fill(y: Tensor, _: Net) -> Tensor:
    return y.masked_fill(y < 0, 0.5)


def a_stack(y: Tensor, _: Net) -> Tensor:
    return torch.stack([y[:, step].tanh() if step % 2 else y[:, step] for step in range(y.shape[1])], 1)


def a_stack_of_steps(y: Tensor, net: Net) -> Tensor:
    steps = [y[:, 0]]
    for step in range(1, y.shape[1]):
        steps.append(y[:, step] + net.a(steps[-1]).relu())
    return torch.stack(steps, 1)


def a_padded_rectangle(y: Tensor, _: Net) -> Tensor:
    return F.avg_pool1d(F.pad(y, (1, 1, 1, 1), value=0.5), 3, stride=1)[:, :6]


def a_sum(y: Tensor, _: Net) -> Tensor:
    return y + y.relu()


def a_product_padded(y: Tensor, _: Net) -> Tensor:
    return F.pad(y[:, :3] * y[:, 3:], (0, 0, 2, 1))


def a_mean_over_samples(y: Tensor, _: Net) -> Tensor:
    return y + y.mean(0)


def halves_joined(y: Tensor, _: Net) -> Tensor:
    left, right = y.chunk(2, dim=-1)
    return torch.cat([left * 2, right + (left * 2).exp()], -1)


def exchanged(y: Tensor, _: Net) -> Tensor:
    return torch.cat([y[:, 1:2], y[:, :1], y[:, 2:]], 1)


PLAIN = [
    (a_slice_of_zeros, join_of_zeros),
    (one_channel_plus_one, channels_joined),
    (a_mask_set_to_a_number, a_masked_fill),
    (a_list_filled_in_a_loop, a_stack),
    (steps_that_read_the_last_one, a_stack_of_steps),
    (a_rectangle_of_a_map, a_padded_rectangle),
    (added_into_a_given_tensor, a_sum),
    (multiplied_into_a_slice, a_product_padded),
    (copied_into_a_buffer, a_mean_over_samples),
    (views_written_one_after_the_other, halves_joined),
    (a_swap, exchanged),
]


@pytest.mark.parametrize(("written", "plain"), PLAIN, ids=[plain.__name__ for _, plain in PLAIN])
@pytest.mark.parametrize("there", [True, False], ids=["written to plain", "plain to written"])
def test_code_that_writes_is_code_that_does_not(written: Code, plain: Code, there: bool) -> None:
    codes = (written, plain) if there else (plain, written)
    src, dst = (randomised(Net(code), seed) for seed, code in enumerate(codes))
    mapping = fxmap.auto_map(src, dst, example_inputs=X)
    assert mapping.proof.ok, str(mapping)
    assert mapping.renames["h.weight"] == "h.weight"


def write(region: Any, code: Callable[[Tensor], Any]) -> Code:
    def written(y: Tensor, _: Net) -> Tensor:
        z = torch.zeros_like(y)
        z[region] = code(y)
        return y + z

    return written


def two_writes(first: Any, second: Any) -> Code:
    def written(y: Tensor, _: Net) -> Tensor:
        z = y.clone()
        z[:, :4] = first(y[:, :4])
        z[:, 2:] = second(y[:, 2:])
        return z

    return written


def masked(value: float, bound: float) -> Code:
    def written(y: Tensor, _: Net) -> Tensor:
        y = y.clone()
        y[y > bound] = value
        return y

    return written


def loop(act: Any, steps: Sequence[int]) -> Code:
    def written(y: Tensor, net: Net) -> Tensor:
        out = torch.zeros_like(y)
        for step in steps:
            out[:, step] = act(net.a(y[:, step]))
        return out

    return written


def state(act: Any, view: bool) -> Code:
    def written(y: Tensor, net: Net) -> Tensor:
        (net.table[1:] if view else net.table[:5]).copy_(act(y[0, 1:]))
        return y + net.table

    return written


SCATTER = torch.arange(6).flip(0)[None, :, None].expand(2, 6, 8)


NEAR_MISSES: dict[str, tuple[Code, Code]] = {
    "relu6 and relu": (write(slice(1), F.relu6), write(slice(1), F.relu)),
    "gelu and its approximation": (
        write((slice(None), 0), lambda y: F.gelu(y[:, 1])),
        write((slice(None), 0), lambda y: F.gelu(y[:, 1], approximate="tanh")),
    ),
    "other rows": (
        write((slice(None), slice(1, None)), lambda y: y[:, :-1].exp()),
        write((slice(None), slice(None, -1)), lambda y: y[:, 1:].exp()),
    ),
    "other columns": (write((..., slice(0, 4)), lambda y: y[..., 4:]), write((..., slice(1, 5)), lambda y: y[..., 4:])),
    "the order of two writes": (two_writes(torch.exp, torch.tanh), two_writes(torch.tanh, torch.exp)),
    "a value where a mask is": (masked(100.0, 1e3), masked(200.0, 1e3)),
    "a bound that nothing reaches": (masked(0.0, 1e3), masked(0.0, 1e4)),
    "a loop that leaves out a step": (loop(torch.tanh, range(6)), loop(torch.tanh, range(5))),
    "an activation in a loop": (loop(F.relu6, range(6)), loop(F.relu, range(6))),
    "an activation of what is cached": (state(F.relu6, view=True), state(F.relu, view=True)),
    "rows of a cache": (state(torch.tanh, view=True), state(torch.tanh, view=False)),
    "put and added": (
        lambda y, _: y.clone().index_put_((torch.tensor([0]),), y[1:]),
        lambda y, _: y.clone().index_put_((torch.tensor([0]),), y[1:], accumulate=True),
    ),
    "scattered and added": (
        lambda y, _: torch.ones_like(y).scatter_(1, SCATTER, F.relu(y)),
        lambda y, _: torch.ones_like(y).scatter_add_(1, SCATTER, F.relu(y)),
    ),
    "what is scattered": (
        lambda y, _: torch.ones_like(y).scatter_(1, SCATTER, F.relu(y)),
        lambda y, _: torch.ones_like(y).scatter_(1, SCATTER, F.relu6(y)),
    ),
}


@pytest.mark.parametrize(("one", "other"), NEAR_MISSES.values(), ids=NEAR_MISSES.keys())
@pytest.mark.parametrize("there", [True, False], ids=["there", "back"])
def test_a_difference_in_what_is_written_is_no_proof(one: Code, other: Code, there: bool) -> None:
    codes = (one, other) if there else (other, one)
    src, dst = (randomised(Net(code), seed) for seed, code in enumerate(codes))
    mapping = fxmap.auto_map(src, dst, example_inputs=X)
    assert not mapping.proof.ok, str(mapping)


# What operations on lists of tensors have in common is not known, so they are refused.
PROVEN = {name: code for name, code in FORMS.items() if code is not lists_of_tensors}


@pytest.mark.parametrize("code", PROVEN.values(), ids=PROVEN.keys())
def test_a_model_that_writes_is_itself(code: Code) -> None:
    mapping = fxmap.auto_map(randomised(Net(code), 1), randomised(Net(code), 2), example_inputs=X)
    assert mapping.proof.ok, str(mapping)


HIDDEN = torch.zeros(6, 8)


def memory_that_no_module_holds(act: Any) -> Code:
    def written(y: Tensor, _: Net) -> Tensor:
        HIDDEN[:, 1:].copy_(act(y[0, :, 1:].float()))
        return y + HIDDEN

    return written


def test_a_write_that_no_graph_explains_is_said_and_stands_against_the_proof() -> None:
    found = captured(memory_that_no_module_holds(F.relu))
    assert found.mutations == ("copy_ in the model itself",)
    assert torch.equal(HIDDEN, torch.zeros(6, 8))
    src, dst = (randomised(Net(memory_that_no_module_holds(act)), 1) for act in (F.relu6, F.relu))
    mapping = fxmap.auto_map(src, dst, example_inputs=X)
    assert not mapping.proof.ok
    assert fxmap.Status.PROVEN not in mapping.proof.statuses.values()
    assert "writes in place that the graph does not explain: copy_ in the model itself" in mapping.proof.reason
