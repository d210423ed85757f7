"""Sources of graphs: the ladder, what a captured model knows of its source, and a new source as one entry."""

import pytest
import torch
from torch import Tensor, nn

from fxmap.capture.captured import Captured
from fxmap.capture.ladder import LADDER
from fxmap.capture.recorded import RECORDED, capture_run
from fxmap.capture.source import GraphSource
from fxmap.capture.symbolic import SYMBOLIC
from fxmap.errors import CaptureError
from fxmap.matching.strategies.problem import Problem
from fxmap.matching.strategies.solve import solve
from fxmap.matching.strategies.structure import structure
from fxmap.model.inputs import Given, Inputs, as_inputs
from fxmap.model.replica import replicate
from fxmap.testing.planted import randomised
from fxmap.trace import recording

X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))


class Checked(nn.Module):
    """A model whose check of its input keeps symbolic tracing out."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != 4:
            raise ValueError("of another size")
        return self.layer(x)


@pytest.mark.parametrize("source", LADDER, ids=lambda source: source.name)
def test_every_source_captures_a_replica_in_eval_mode(source: GraphSource) -> None:
    replica = replicate(nn.Sequential(nn.Linear(4, 4), nn.Dropout())).train()
    captured = source.capture(replica, as_inputs(X) if source.needs_inputs else None)
    assert captured.rung == source.name
    assert captured.recorded == source.needs_inputs
    assert list(captured.tensors) == ["0.weight", "0.bias"]
    assert not replica.training
    captured.graph.lint()


def test_a_capture_reports_itself_and_why_it_failed() -> None:
    with recording() as steps:
        with pytest.raises(CaptureError):
            SYMBOLIC.capture(replicate(Checked()))
        RECORDED.capture(replicate(Checked()), as_inputs(X))
    assert [step.stage for step in steps] == ["capture", "capture"]
    assert "torch.fx cannot trace Checked" in steps[0].left
    assert steps[1].found.startswith("Checked by recorded run, ")


def test_a_new_source_is_one_entry() -> None:
    def capture_made_up(replica: nn.Module, inputs: Inputs | None) -> Captured:
        return capture_run(replica, inputs)

    ladder = (SYMBOLIC, GraphSource("made up", capture_made_up, needs_inputs=True), RECORDED)
    src, dst = randomised(Checked(), 1), randomised(Checked(), 2)
    with recording() as steps:
        outcome = solve(Problem(src, dst, Given.of(X)), tuple(structure(source) for source in ladder))
    assert outcome.certain
    assert [step.stage for step in steps if not step.depth] == ["structure, by symbolic trace", "structure, by made up"]


def test_replicas_are_also_found_where_they_once_were() -> None:
    from fxmap.capture.replica import replicate as former

    assert former is replicate
