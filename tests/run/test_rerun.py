"""What is run again in part returns what a whole run does, bit for bit where something changed."""

from dataclasses import replace

import pytest
import torch
import torchvision
from torch import Tensor, nn

import fxmap
from fxmap.capture.symbolic import capture_symbolic
from fxmap.run.interpreter import ValueInterpreter
from fxmap.run.rerun import Rerun
from fxmap.testing.planted import randomised


class Branches(nn.Module):
    """The sum of two layers, and a layer behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.a(x) + self.b(x))


def test_every_tensor_of_a_network_that_is_changed_alone_gives_what_a_whole_run_gives() -> None:
    model = randomised(torchvision.models.shufflenet_v2_x0_5(num_classes=3).eval(), 1).double()
    graph, x = capture_symbolic(model), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    tensors = dict(model.state_dict())
    rerun = Rerun.of(graph, tensors, [x])
    assert rerun is not None
    with torch.no_grad():
        for path in [*tensors][::17]:
            changed = {**tensors, path: tensors[path] * 2}
            torch.testing.assert_close(rerun(changed), ValueInterpreter(graph, changed).run(x), rtol=1e-12, atol=0.0)


def test_what_stays_the_same_is_not_run_again() -> None:
    model = Branches().double().eval()
    graph, tensors = capture_symbolic(model), dict(model.state_dict())
    rerun = Rerun.of(graph, tensors, [torch.randn(3, 4, dtype=torch.float64)])
    assert rerun is not None
    exchanged = {f"{one}.{name}": tensors[f"{other}.{name}"] for one, other in ("ab", "ba") for name in ("weight", "bias")}
    with torch.no_grad():
        assert rerun({**tensors, **exchanged}) is rerun(tensors)
        assert rerun({**tensors, "a.weight": tensors["b.weight"]}) is not rerun(tensors)


def test_a_graph_that_writes_into_its_values_is_run_as_a_whole() -> None:
    model = Branches().double().eval()
    graph, x = capture_symbolic(model), torch.ones(2, 4, dtype=torch.float64)
    assert Rerun.of(replace(graph, mutations=("add_ in the model itself",)), dict(model.state_dict()), [x]) is None


def test_a_run_whose_values_are_too_many_to_be_held_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fxmap.run.rerun._HELD", 20)
    model = Branches().double().eval()
    graph, x = capture_symbolic(model), torch.ones(2, 4, dtype=torch.float64)
    assert Rerun.of(graph, dict(model.state_dict()), [x]) is None


def test_branches_of_a_sum_are_tied_as_before() -> None:
    src, dst = randomised(Branches(), 1).eval(), randomised(Branches(), 2).eval()
    mapping = fxmap.auto_map(src, dst, example_inputs=torch.randn(3, 4))
    assert mapping.proof.ok, str(mapping)
    assert {str(mapping.status(key)).rpartition(".")[2].lower() for key in ("a.weight", "b.weight")} == {"tied"}
    assert str(mapping.status("c.weight")).rpartition(".")[2].lower() == "proven"
