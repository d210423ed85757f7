"""From one converted model to another of the same network, without calibration data."""

import copy
from functools import cache
from typing import Any

import pytest
import torch
import torch.ao.quantization as tq
from torch import Tensor, nn

import fxmap
from fxmap.expressions.base import contains
from fxmap.expressions.quantized import Requantized
from fxmap.mapping.proof import Status
from fxmap.run.noise import equal_states
from fxmap.testing.branches import images
from fxmap.testing.compare import same_value, sqnr
from fxmap.testing.recipes import layers
from fxmap.testing.recipes.forms import Form, engine
from fxmap.testing.recipes.graphs import BUILDERS, show

pytestmark = pytest.mark.usefixtures("fbgemm", "quiet")

pytest.importorskip("torchao.quantization.pt2e")

DATA, OTHER = images(3), images(4)
GRAPHS = {
    "fx": "fx-int8",
    "reference": "fx-reference",
    "x86": "pt2e-x86-int8",
    "xnnpack": "pt2e-xnnpack-int8",
}


class Residual(nn.Module):
    """A stem, a residual block, and a head behind a pool; with the stubs and functions of eager mode, or without."""

    def __init__(self, *, eager: bool) -> None:
        super().__init__()
        self.eager = eager
        self.stem, self.norm, self.relu = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU()
        self.body, self.body_norm, self.act = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(8, 16)
        if eager:
            self.quant, self.dequant = tq.QuantStub(), tq.DeQuantStub()
            self.add, self.unused = nn.quantized.FloatFunctional(), nn.quantized.FloatFunctional()

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, `b 16`."""
        x = self.quant(x) if self.eager else x
        x = self.relu(self.norm(self.stem(x)))
        y = self.body_norm(self.body(x))
        x = self.add.add_relu(x, y) if self.eager else self.act(x + y)
        x = self.head(self.pool(x).flatten(1))
        return self.dequant(x) if self.eager else x


def network(seed: int, *, eager: bool = False) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Residual(eager=eager)
        for norm in (model.norm, model.body_norm):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias)
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 2)
    return model.eval()


@cache
def _built(name: str, seed: int) -> nn.Module:
    data = DATA if seed == 1 else OTHER
    if name in GRAPHS:
        return BUILDERS[GRAPHS[name]](network(seed), data, images(0, 1)[0])
    if name == "dynamic":
        return tq.quantize_dynamic(network(seed), {nn.Linear})
    model = tq.fuse_modules(network(seed, eager=True), [["stem", "norm", "relu"], ["body", "body_norm"]])
    weight = tq.default_weight_observer if name == "tensor" else tq.default_per_channel_weight_observer
    vars(model)["qconfig"] = tq.QConfig(activation=tq.default_observer, weight=weight)
    return tq.convert(show(tq.prepare(model), data))


def built(name: str, seed: int) -> Any:
    return copy.deepcopy(_built(name, seed))


def run(model: nn.Module) -> Tensor:
    with torch.no_grad():
        result: Tensor = model(DATA[0])
    return result


EXACT = [
    ("channel", "channel"),
    ("tensor", "tensor"),
    ("channel", "fx"),
    ("channel", "reference"),
    ("fx", "fx"),
    ("fx", "reference"),
    ("reference", "fx"),
    ("reference", "reference"),
    ("x86", "x86"),
    ("xnnpack", "xnnpack"),
    ("xnnpack", "channel"),
    ("xnnpack", "fx"),
    ("xnnpack", "reference"),
    ("dynamic", "dynamic"),
]
# The destination rounds at fewer places, or its weights have another scheme.
CLOSE = [
    ("fx", "channel"),
    ("reference", "channel"),
    ("channel", "x86"),
    ("fx", "x86"),
    ("reference", "x86"),
    ("xnnpack", "x86"),
    ("channel", "xnnpack"),
    ("fx", "xnnpack"),
    ("channel", "tensor"),
    ("tensor", "channel"),
    ("channel", "dynamic"),
]


@pytest.mark.parametrize(("source", "name"), [*EXACT, *CLOSE])
def test_nothing_is_needed_where_every_range_is_known(source: str, name: str) -> None:
    src, dst = built(source, 1), built(name, 2)
    mapping = fxmap.transfer(src, dst)
    assert mapping.proof.ok, str(mapping)
    assert not mapping.missing
    if (source, name) in EXACT:
        assert torch.equal(run(dst), run(src))
    else:
        assert sqnr(run(src), run(dst)) > 30
    if source == name:
        own, state = src.state_dict(), dst.state_dict()
        dead = {key for key in state if mapping.status(key) is Status.INERT}
        assert [key for key in own if key not in dead and not same_value(own[key], state[key])] == []


@pytest.mark.parametrize(("source", "name"), [("x86", "channel"), ("x86", "fx"), ("dynamic", "channel")])
def test_a_range_that_the_source_does_not_have_is_asked_for(source: str, name: str) -> None:
    src, dst = built(source, 1), built(name, 2)
    before = run(dst)
    with pytest.raises(fxmap.MissingCalibration, match="calibration=batches"):
        fxmap.transfer(src, dst)
    assert torch.equal(run(dst), before)
    note = "ranges of activations of the int8 source are not taken over: the destination has 1 ranges"
    assert (note in str(fxmap.auto_map(src, dst, verify=False))) == (source != "dynamic")


def test_the_report_says_what_was_taken_over() -> None:
    mapping = fxmap.transfer(built("channel", 1), built("fx", 2))
    assert "6 ranges of activations are the int8 source's" in str(mapping)
    assert mapping.status("stem.scale") is Status.TAKEN
    assert str(mapping["stem.scale"]) == "stem.scale"
    assert str(mapping["act_scale_0"]) == "add.scale"
    assert str(mapping["_scale_0"]) == "add.scale"
    assert contains(mapping["stem.weight"], Requantized)
    fewer = fxmap.transfer(built("xnnpack", 1), built("x86", 2))
    assert "2 more ranges of the source have no place in the destination" in str(fewer)


def test_batches_and_keep_mean_what_they_mean_for_a_float_source() -> None:
    src, dst, kept = built("channel", 1), built("channel", 2), built("channel", 2)
    mapping = fxmap.transfer(src, dst, calibration=OTHER)
    assert mapping.status("stem.scale") is Status.CALIBRATED
    assert not same_value(dst.state_dict()["stem.scale"], src.state_dict()["stem.scale"])
    assert same_value(dst.state_dict()["stem.weight"], src.state_dict()["stem.weight"])
    mapping = fxmap.transfer(src, kept, calibration="keep")
    assert mapping.status("stem.scale") is Status.KEPT
    assert same_value(kept.state_dict()["stem.scale"], built("channel", 2).state_dict()["stem.scale"])
    graph = built("xnnpack", 2)
    fxmap.transfer(src, graph, calibration="keep")
    assert [node.args[1] for node in graph.graph.nodes if "quantize_per_tensor" in node.name] == [
        node.args[1] for node in built("xnnpack", 2).graph.nodes if "quantize_per_tensor" in node.name
    ]


@pytest.mark.parametrize("source", ["channel", "xnnpack", "reference"])
def test_the_mapping_survives_json_and_runs_as_python(source: str) -> None:
    src, dst = built(source, 1), built("channel", 2)
    mapping = fxmap.auto_map(src, dst, verify=False)
    again = fxmap.KeyMapping.from_json(mapping.to_json())
    assert again == mapping
    again.load_into(dst, src.state_dict())
    namespace: dict[str, Any] = {}
    exec(mapping.to_python(), namespace)
    made = namespace["convert"](src.state_dict())
    assert [key for key, value in made.items() if not same_value(value, dst.state_dict()[key])] == []


def test_literals_of_a_graph_are_in_no_state_dict() -> None:
    src, dst = built("channel", 1), built("xnnpack", 2)
    mapping = fxmap.auto_map(src, dst, verify=False)
    again = fxmap.KeyMapping.from_json(mapping.to_json())
    assert again == mapping
    assert again.knowledge.literals
    with pytest.raises(fxmap.QuantizationError, match=r"load with fxmap.transfer\(src, dst\)"):
        again.load_into(dst, src.state_dict())


def test_a_wrapped_source_and_a_file() -> None:
    src, dst = built("channel", 1), built("channel", 2)
    mapping = fxmap.transfer(nn.DataParallel(src), dst, verify=False)
    assert str(mapping["stem.scale"]) == "module.stem.scale"
    assert torch.equal(run(dst), run(src))
    other = built("fx", 2)
    fxmap.load(other, src.state_dict(), src=built("channel", 3))
    assert torch.equal(run(other), run(src))


def test_a_replaced_head_has_no_range() -> None:
    src = built("channel", 1)
    other = network(2, eager=True)
    other.head = nn.Linear(8, 5)
    fused = tq.fuse_modules(other, [["stem", "norm", "relu"], ["body", "body_norm"]])
    vars(fused)["qconfig"] = tq.QConfig(tq.default_observer, tq.default_per_channel_weight_observer)
    dst = tq.convert(show(tq.prepare(fused), OTHER))
    with pytest.raises(fxmap.MissingCalibration):
        fxmap.transfer(src, dst, on_mismatch="keep")
    with pytest.raises(fxmap.LoadError, match="this part was replaced"):
        fxmap.transfer(src, dst)


class Joined(nn.Module):
    """Two layers whose results are joined: with a range of its own in eager mode, with that of its inputs in FX mode."""

    def __init__(self, *, eager: bool) -> None:
        super().__init__()
        self.eager = eager
        self.left, self.right, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 6, 3), nn.Conv2d(10, 4, 1)
        if eager:
            self.quant, self.dequant, self.join = tq.QuantStub(), tq.DeQuantStub(), nn.quantized.FloatFunctional()

    def forward(self, x: Tensor) -> Tensor:
        """Return `b 4 h w`."""
        x = self.quant(x) if self.eager else x
        parts = [self.left(x), self.right(x)]
        x = self.head(self.join.cat(parts, 1) if self.eager else torch.cat(parts, 1))
        return self.dequant(x) if self.eager else x


def joined(name: str, seed: int) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Joined(eager=name == "channel").eval()
    data = DATA if seed == 1 else OTHER
    if name != "channel":
        return BUILDERS[GRAPHS[name]](model, data, DATA[0])
    vars(model)["qconfig"] = tq.QConfig(tq.default_observer, tq.default_per_channel_weight_observer)
    return tq.convert(show(tq.prepare(model), data))


@pytest.mark.parametrize(
    ("source", "name"), [("channel", "channel"), ("fx", "fx"), ("fx", "channel"), ("channel", "reference")]
)
def test_ranges_around_a_join(source: str, name: str) -> None:
    src, dst = joined(source, 1), joined(name, 2)
    fxmap.transfer(src, dst)
    assert torch.equal(run(dst), run(src))


def test_ranges_that_the_destination_shares_and_the_source_does_not() -> None:
    src, dst = joined("channel", 1), joined("fx", 2)
    with pytest.raises(fxmap.MissingCalibration):
        fxmap.transfer(src, dst)
    why = "the destination has one range before and behind cat cat, the source several"
    assert why in str(fxmap.auto_map(src, dst, verify=False))


def test_recurrent_layers_and_attention_are_taken_over() -> None:
    data = layers.batches(3)
    src, dst = (
        layers.build_form(Form.INT8_CHANNEL, layers.randomised(seed).state_dict(), layers.batches(seed)) for seed in (1, 2)
    )
    with engine(Form.INT8_CHANNEL.engine):  # which packs the weights that are loaded
        mapping = fxmap.transfer(src, dst, example_inputs=data[0], verify=False)
        own, state = src.state_dict(), dst.state_dict()
        assert [key for key in own if not equal_states(own[key], state[key])] == []
        assert mapping.status("lstm.layers.0.layer_fw.cell.igates.scale") is Status.TAKEN
        with torch.no_grad():
            assert torch.equal(dst(*data[0]), src(*data[0]))
