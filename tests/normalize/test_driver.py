"""The rewrite driver reaches a fixpoint, says what each rule did, and stops a rule that would never end."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torchvision
from torch import Tensor, nn

from fxmap.capture.captured import Captured
from fxmap.capture.recorded import capture_run
from fxmap.capture.symbolic import capture_symbolic
from fxmap.errors import InternalError
from fxmap.graph.opgraph import Op, OpGraph
from fxmap.model.inputs import as_inputs
from fxmap.model.replica import replicate
from fxmap.normalize.driver import rewrite
from fxmap.normalize.fold import Fold
from fxmap.normalize.network import Network
from fxmap.normalize.phases import READ_THROUGH, SPELL
from fxmap.normalize.rule import Context, Outcome, Rewrites, Rule

IMAGE = torch.randn(1, 3, 64, 64)


class Neutral(nn.Module):
    """Sums with 0 around a layer and its norm: only without them the norm stands behind the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.idle = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout()

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(0 + self.idle(1 * (0 + self.conv(x)))).flatten(1).view(-1, 4) * 2


MODELS: dict[str, Callable[[], nn.Module]] = {
    "neutral": Neutral,
    "resnet18": torchvision.models.resnet18,
    "mobilenet": torchvision.models.mobilenet_v3_small,
    "shufflenet": torchvision.models.shufflenet_v2_x0_5,
    "swin": lambda: torchvision.models.SwinTransformer([4, 4], 8, [1, 1], [2, 2], [4, 4]),
    "vit": lambda: torchvision.models.VisionTransformer(64, 16, 2, 2, 16, 32),
    "convnext": lambda: torchvision.models.ConvNeXt([torchvision.models.convnext.CNBlockConfig(8, None, 2)]),
}


def _captured(name: str, recorded: bool) -> Captured:
    torch.manual_seed(0)
    replica = replicate(MODELS[name]().eval())
    return capture_run(replica, as_inputs(IMAGE)) if recorded or name == "vit" else capture_symbolic(replica)


def _state(ops: OpGraph) -> tuple[list[Op], list[tuple[str, str, str]]]:
    return [op for _, op in ops.network.nodes(data="op")], sorted(ops.network.edges(data="argument"))


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("fold", [Fold(), Fold(sums=True, scales=True, norms_before=True, weight_norms=True)])
@pytest.mark.parametrize("name", MODELS)
def test_the_driver_applied_once_more_changes_nothing(name: str, fold: Fold, recorded: bool) -> None:
    network = Network.of(_captured(name, recorded), fold)
    before = _state(network.ops)
    assert sum(network.rewrites.applied.values()) > 0
    again = Rewrites()
    rewrite(Context(network.ops, network.graph), (*SPELL, *READ_THROUGH), again)
    assert again.applied == {}
    assert _state(network.ops) == before


def test_a_change_of_one_rule_is_seen_by_those_before_it() -> None:
    assert [op.kind for op in Network.of(_captured("neutral", False)).ops.ops() if not op.key] == [
        "input",
        "convolution",
        "output",
    ]


def test_the_record_says_how_often_a_rule_was_applied_and_why_it_was_not() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.one, self.two = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)
            self.other, self.last = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.other(self.two(self.conv(self.one(self.conv(x))))))

    rewrites = Network.of(capture_symbolic(replicate(Shared().eval()))).rewrites
    assert rewrites.applied["merge batch norms"] == 1
    ((reason, op),) = rewrites.refused["merge batch norms"].items()
    assert (reason, op.module) == ("the layer's weight is shared", "two")
    assert "merge batch norms: applied 1 times; not at batch_norm two: the layer's weight is shared" in str(rewrites)


def test_a_rule_that_never_ends_is_an_internal_error_that_names_it() -> None:
    def spin(context: Context, op: Op) -> Outcome:
        context.ops.add(replace(op, module=f"{op.module}x"))
        return (op.name,)

    network = Network.of(_captured("resnet18", False))
    with pytest.raises(InternalError, match="'spin' is applied without end, at linear"):
        rewrite(Context(network.ops, network.graph), (Rule("spin", frozenset({"linear"}), spin),), Rewrites())
