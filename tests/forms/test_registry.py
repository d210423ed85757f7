"""Forms and their registry: who recognises what, and what a new form needs."""

from dataclasses import replace

import pytest
import torch
import torch.ao.quantization as tq
from torch import fx, nn

import fxmap
from fxmap.forms import stages
from fxmap.forms.conversion import Conversion, Converted, Part
from fxmap.forms.eager import EAGER
from fxmap.forms.fill import Filled, FillRequest
from fxmap.forms.form import Findings, Form, Twin
from fxmap.forms.fx_mode import FX_MODE
from fxmap.forms.plain import FLOAT
from fxmap.forms.registry import FORMS
from fxmap.forms.sites import KeptReason, RangeRef
from fxmap.forms.stages import Stage
from fxmap.forms.store import Store
from fxmap.forms.twin import float_twin


class Halved(nn.Module):
    """A layer of a made-up form: it holds half of its weight, under another name."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Parameter(torch.randn(3, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, 2 * self.part)


HALVED_STAGE = Stage("halved", takes_calibration=True)


def _convert(part: Part) -> Converted:
    layer = nn.Linear(2, 3, bias=False)
    layer.weight = nn.Parameter(2 * part.module.part.detach())
    return Converted(layer, {part.key("part"): Store(part.key("weight"))})


def _recognise(found: Findings) -> Stage | None:
    return HALVED_STAGE if HALVED in found.forms else None


def _fill(twin: Twin, request: FillRequest) -> Filled:
    weights = {key: expression.evaluate(request.state) for key, expression in request.expressions.items()}
    return Filled({key: value / 2 for key, value in weights.items()})


HALVED = Form("halved", _recognise, conversions=lambda: (Conversion((Halved,), _convert),), fill=_fill)


def _static() -> nn.Module:
    model = nn.Sequential(tq.QuantStub(), nn.Conv2d(3, 4, 3), nn.ReLU(), tq.DeQuantStub()).eval()
    model.qconfig = tq.default_qconfig
    prepared = tq.prepare(model)
    prepared(torch.randn(1, 3, 8, 8))
    converted: nn.Module = tq.convert(prepared)
    return converted


def test_a_new_form_is_one_record_and_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fxmap.forms.twin.FORMS", (HALVED, *FORMS))
    src, dst = nn.Sequential(nn.Linear(2, 3, bias=False)), nn.Sequential(Halved())
    found = float_twin(dst)
    assert (found.form, found.stage, found.stores) == (HALVED, HALVED_STAGE, {"0.part": Store("0.weight")})
    mapping = fxmap.transfer(src, dst, calibration=[torch.randn(1, 2)], example_inputs=torch.randn(1, 2))
    assert mapping.knowledge.stages == ("float", "halved")
    x = torch.randn(5, 2)
    assert torch.equal(dst(x), src(x))


def test_no_other_form_knows_a_module_of_a_new_one() -> None:
    found = float_twin(nn.Sequential(Halved()))
    assert (found.form, found.stage) == (FLOAT, stages.FLOAT)


def test_every_form_has_a_name_of_its_own_and_the_last_takes_all() -> None:
    assert len({form.name for form in FORMS}) == len(FORMS)
    assert FORMS[-1] is FLOAT


def test_a_form_whose_package_was_never_imported_is_not_asked() -> None:
    assert EAGER.is_loaded()
    assert not replace(EAGER, packages=("a.package.that.nobody.has",)).is_loaded()


def test_static_int8_is_eager_as_a_module_and_fx_as_a_graph() -> None:
    from torch.ao.quantization import quantize_fx

    eager = float_twin(_static())
    assert (eager.form, eager.stage) == (EAGER, stages.CONVERTED)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    x = torch.randn(1, 3, 8, 8)
    prepared = quantize_fx.prepare_fx(model, tq.get_default_qconfig_mapping(), (x,))
    observed = float_twin(prepared)
    assert (observed.form, observed.stage) == (FX_MODE, stages.PREPARED)
    prepared(x)
    graph = float_twin(quantize_fx.convert_fx(prepared))
    assert (graph.form, graph.stage) == (FX_MODE, stages.CONVERTED)
    assert isinstance(graph.module, fx.GraphModule)


def test_kept_keys_and_ranges_are_told_by_their_types() -> None:
    found = float_twin(_static(), marked=True)
    assert set(found.kept.values()) == {KeptReason.RANGE}
    assert set(found.ranges) == {RangeRef(key) for key in found.kept}
    assert {site.scale for site in found.sites} | {site.zero_point for site in found.sites} == set(found.kept)


def test_every_stage_with_ranges_takes_calibration() -> None:
    known = [stage for stage in vars(stages).values() if isinstance(stage, Stage)]
    assert len({stage.name for stage in known}) == len(known) == 14
    assert all(stage.takes_calibration for stage in known if stage.has_ranges)
    assert all(stage.has_ranges for stage in known if stage.runs_int8 or stage.ranges_in_graph)
