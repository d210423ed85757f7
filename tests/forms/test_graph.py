"""Graphs of FX mode and PT2E as destinations and as sources, and what is lost silently without fxmap."""

import copy
import re
from functools import cache

import pytest
import torch
import torch.ao.quantization as tq
from torch import Tensor, nn
from torch.ao.quantization import quantize_fx

import fxmap
from fxmap.forms import stages
from fxmap.forms.twin import float_twin
from fxmap.mapping.proof import Status
from fxmap.testing.branches import branches, eps_of, form, images
from fxmap.testing.compare import same_value, sqnr
from fxmap.testing.recipes.graphs import BUILDERS, show

pytestmark = pytest.mark.usefixtures("fbgemm", "quiet")

pytest.importorskip("torchao.quantization.pt2e")

FORMS = {
    "fx-fused": stages.FUSED,
    "fx-prepared": stages.PREPARED,
    "fx-qat": stages.QAT,
    "fx-int8": stages.CONVERTED,
    "fx-reference": stages.REFERENCE,
    "pt2e-x86-prepared": stages.PT2E_PREPARED,
    "pt2e-x86-qat": stages.PT2E_QAT,
    "pt2e-x86-int8": stages.PT2E_CONVERTED,
    "pt2e-xnnpack-prepared": stages.PT2E_PREPARED,
    "pt2e-xnnpack-qat": stages.PT2E_QAT,
    "pt2e-xnnpack-int8": stages.PT2E_CONVERTED,
}
# Preparing an exported graph for QAT takes torchao several seconds.
ALL = [pytest.param(name, marks=pytest.mark.slow) if name == "pt2e-xnnpack-qat" else name for name in FORMS]
CALIBRATED = [name for name, stage in FORMS.items() if stage.takes_calibration]
CONVERTED = [name for name, stage in FORMS.items() if stage.has_ranges]
DATA, OTHER = images(3), images(4)


@cache
def _built(name: str, seed: int) -> nn.Module:
    data = (DATA if seed == 1 else OTHER) if FORMS[name].takes_calibration else ()
    return form(name, seed, data)


def _form(name: str, seed: int) -> nn.Module:
    """Build a form, or copy it: exporting takes most of the time of these tests."""
    return copy.deepcopy(_built(name, seed))


def _differing(dst: nn.Module, reference: nn.Module) -> list[str]:
    state, expected = dst.state_dict(), reference.state_dict()
    assert state.keys() == expected.keys()
    return [key for key in expected if not same_value(state[key], expected[key])]


def _run(model: nn.Module, batch: Tensor) -> Tensor:
    with torch.no_grad():
        result: Tensor = model(batch)
    return result


@pytest.mark.parametrize("name", ALL)
def test_stage_is_recognised(name: str) -> None:
    assert float_twin(_built(name, 2)).stage == FORMS[name]


@pytest.mark.parametrize("name", ALL)
def test_equals_the_reference(name: str) -> None:
    dst = _form(name, 2)
    src = branches(1, eps=eps_of(name))
    mapping = fxmap.transfer(src, dst, calibration=DATA if name in CALIBRATED else None)
    assert mapping.proof.ok, str(mapping)
    assert f"destination: {FORMS[name].name}" in str(mapping)
    assert not mapping.missing
    if FORMS[name] == stages.PT2E_QAT:
        assert all(same_value(value, dst.state_dict()[key]) for key, value in src.state_dict().items())
        return
    assert _differing(dst, _built(name, 1)) == []
    assert torch.equal(_run(dst, DATA[0]), _run(_form(name, 1), DATA[0]))


@pytest.mark.parametrize("name", ALL)
def test_back_to_float(name: str) -> None:
    src, dst = branches(1, eps=eps_of(name)), branches(2, eps=eps_of(name))
    filled = _form(name, 2)
    fxmap.transfer(src, filled, calibration=DATA if name in CALIBRATED else None, verify=False)
    mapping = fxmap.transfer(filled, dst)
    assert mapping.proof.ok, str(mapping)
    assert not mapping.missing
    assert not mapping.unexpected
    noise = 25 if name in CONVERTED and name != "fx-reference" else 100
    assert sqnr(_run(src, DATA[0]), _run(dst, DATA[0])) > noise


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("pt2e-x86-int8", "fx-int8"),
        ("fx-int8", "pt2e-xnnpack-int8"),
        ("pt2e-x86-int8", "pt2e-x86-int8"),
        ("fx-qat", "fx-int8"),
    ],
)
def test_from_one_form_into_another(source: str, name: str) -> None:
    src, dst = _form(source, 1), _form(name, 2)
    mapping = fxmap.transfer(src, dst, calibration=DATA)
    assert mapping.proof.ok, str(mapping)
    assert sqnr(_run(branches(1), DATA[0]), _run(dst, DATA[0])) > 20


@pytest.mark.parametrize("name", CONVERTED)
def test_ranges_are_never_kept_silently(name: str) -> None:
    src, dst = branches(1), _form(name, 2)
    before = _run(dst, DATA[0])
    with pytest.raises(fxmap.MissingCalibration):
        fxmap.transfer(src, dst)
    with pytest.raises(fxmap.MissingCalibration):
        fxmap.auto_map(src, dst, verify=False).apply(src.state_dict())
    assert torch.equal(_run(dst, DATA[0]), before)
    fxmap.transfer(src, dst, calibration="keep")
    assert not torch.equal(_run(dst, DATA[0]), before)


@pytest.mark.parametrize("name", CALIBRATED)
def test_nothing_is_written_where_calibration_fails(name: str) -> None:
    dst = _form(name, 2)
    for bad in ([], [DATA[0], torch.zeros(2, 5, 24, 24)]):
        with pytest.raises(fxmap.QuantizationError):
            fxmap.transfer(branches(1), dst, calibration=bad)
    assert _differing(dst, _built(name, 2)) == []
    assert torch.equal(_run(dst, DATA[0]), _run(_built(name, 2), DATA[0]))


def test_literals_are_put_back_where_loading_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    dst = _form("pt2e-x86-int8", 2)
    code = dst.code

    def refuse(*_: object, **__: object) -> None:
        raise fxmap.LoadError("refused")

    monkeypatch.setattr(fxmap.KeyMapping, "write", refuse)
    with pytest.raises(fxmap.LoadError):
        fxmap.transfer(branches(1), dst, calibration=DATA)
    assert dst.code == code


@pytest.mark.parametrize("name", ["fx-qat", "pt2e-x86-qat", "fx-fused"])
def test_calibration_without_ranges_names_what_to_build(name: str) -> None:
    with pytest.raises(fxmap.QuantizationError, match="it is " + re.escape(FORMS[name].name)):
        fxmap.transfer(branches(1), _form(name, 2), calibration=DATA)


@pytest.mark.usefixtures("little_effort")
def test_eps_that_preparing_for_qat_loses_is_named() -> None:
    # torchao puts the batch norms of its own pattern, whose eps is 1e-5, in the place of the model's.
    mapping = fxmap.auto_map(branches(1, eps=1e-3), _form("pt2e-x86-qat", 2))
    assert not mapping.proof.ok
    assert "eps 1e-05 against 0.001" in str(mapping.proof.divergence)


# --- what a form can be made with


def _converted_fx(seed: int, **floats: bool) -> nn.Module:
    mapping = tq.QConfigMapping().set_global(tq.QConfig(tq.default_observer, tq.default_per_channel_weight_observer))
    for name in floats:
        mapping.set_module_name(name, None)
    prepared = quantize_fx.prepare_fx(branches(seed), mapping, (DATA[0],))
    return quantize_fx.convert_fx(show(prepared, DATA if seed == 1 else OTHER))


@pytest.mark.parametrize("floats", [{}, {"head": True}, {"right": True}])
@pytest.mark.parametrize("remembers", [True, False])
def test_layers_left_in_float_and_graphs_without_metadata(floats: dict[str, bool], remembers: bool) -> None:
    dst = _converted_fx(2, **floats)
    if not remembers:
        for node in dst.graph.nodes:
            node.meta.clear()
    fxmap.transfer(branches(1), dst, calibration=DATA, verify=False)
    assert _differing(dst, _converted_fx(1, **floats)) == []


def test_another_configuration_is_refused() -> None:
    dst = _form("fx-int8", 2)
    with pytest.raises(fxmap.QuantizationError, match="was not made with this configuration"):
        fxmap.transfer(
            branches(1), dst, calibration=DATA, qconfig=tq.QConfigMapping().set_module_name("head", tq.default_qconfig)
        )
    assert _differing(dst, _built("fx-int8", 2)) == []


@pytest.mark.parametrize(("per_channel", "folded"), [(False, True), (True, False)])
def test_weights_with_literals_and_weights_that_stay_float(per_channel: bool, folded: bool) -> None:
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.testing.pt2e import _xnnpack_quantizer as xnnpack

    def build(seed: int) -> nn.Module:
        exported = torch.export.export(branches(seed), (DATA[0],), strict=True).module()
        config = xnnpack.get_symmetric_quantization_config(is_per_channel=per_channel)
        prepared = prepare_pt2e(exported, xnnpack.XNNPACKQuantizer().set_global(config))
        return convert_pt2e(show(prepared, DATA if seed == 1 else OTHER), fold_quantize=folded)

    dst, reference = build(2), build(1)
    fxmap.transfer(branches(1), dst, calibration=DATA, verify=False)
    assert _differing(dst, reference) == []
    assert torch.equal(_run(dst, DATA[0]), _run(reference, DATA[0]))


class _Gated(nn.Module):
    """A network in which most ranges of activations are the same where its input is all zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.gate, self.last = (nn.Conv2d(n, 6, 1, bias=False) for n in (3, 6, 6, 12))

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.hardswish(self.first(x))
        y = torch.relu(self.second(x))
        pooled = nn.functional.adaptive_avg_pool2d(y, 1)
        y = y * nn.functional.hardsigmoid(self.gate(pooled))
        joined: Tensor = self.last(nn.functional.max_pool2d(torch.cat([x, y], 1), 2))
        return joined


@pytest.mark.parametrize("annotated", [True, False])
def test_equal_literals_of_a_destination_that_saw_nothing_are_no_shared_observer(annotated: bool) -> None:
    def build(seed: int, batches: list[Tensor]) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return BUILDERS["pt2e-xnnpack-int8"](_Gated().eval(), batches, DATA[0])

    reference, dst = build(1, DATA), build(2, [torch.zeros_like(batch) for batch in DATA])
    if not annotated:
        for node in dst.graph.nodes:
            node.meta.pop("quantization_annotation", None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        src = _Gated().eval()
    fxmap.transfer(src, dst, calibration=DATA, qconfig=None if annotated else _histogram)
    assert _differing(dst, reference) == []
    assert torch.equal(_run(dst, DATA[0]), _run(reference, DATA[0]))


def _histogram() -> nn.Module:
    from torchao.quantization.pt2e import HistogramObserver

    observer: nn.Module = HistogramObserver(
        dtype=torch.int8, quant_min=-128, quant_max=127, qscheme=torch.per_tensor_affine, eps=2**-12
    )
    return observer


def _converted_qat(model: nn.Module, seed: int) -> nn.Module:
    from torchao.quantization.pt2e import move_exported_model_to_eval
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

    prepared = move_exported_model_to_eval(BUILDERS["pt2e-x86-qat"](model, (), DATA[0]))
    return convert_pt2e(show(prepared, DATA if seed == 1 else OTHER))


def _convolutions(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)).eval()


def test_ranges_of_a_graph_that_was_prepared_for_qat_are_those_of_its_fake_quants() -> None:
    src, dst, reference = _convolutions(1), _converted_qat(_convolutions(2), 2), _converted_qat(_convolutions(1), 1)
    fxmap.transfer(src, dst, calibration=DATA)
    assert _differing(dst, reference) == []
    assert torch.equal(_run(dst, DATA[0]), _run(reference, DATA[0]))


@pytest.mark.slow
def test_norms_of_a_graph_that_was_prepared_for_qat_are_folded_up_to_the_last_bit() -> None:
    src, dst, reference = (branches(seed, eps=1e-5) for seed in (1, 2, 1))
    dst, reference = _converted_qat(dst, 2), _converted_qat(reference, 1)
    mapping = fxmap.transfer(src, dst, calibration=DATA)
    assert mapping.proof.ok, str(mapping)
    # torchao computes conv(x, w * s) / s, and folds in another order than torch.nn.utils.fusion.
    assert {key for key in _differing(dst, reference) if "norm" not in key} <= {"_scale_2", "_scale_3"}
    assert sqnr(_run(reference, DATA[0]), _run(dst, DATA[0])) > 100


# --- what happens silently without fxmap


def test_float_weights_in_a_converted_graph_have_no_effect() -> None:
    dst = _form("pt2e-x86-int8", 2)
    before = _run(dst, DATA[0])
    # The float weights of another folded model: torch finds nothing wrong, and no weight takes effect.
    weights = {key: value for key, value in _built("pt2e-x86-prepared", 1).state_dict().items() if key.endswith(".weight")}
    loaded = dst.load_state_dict(weights, strict=False)
    assert not loaded.unexpected_keys
    assert torch.equal(_run(dst, DATA[0]), before)

    mapping = fxmap.transfer(branches(1), dst, calibration=DATA)
    assert _differing(dst, _built("pt2e-x86-int8", 1)) == []
    assert {mapping.status(key) for key in weights} == {Status.INERT}
    assert "4 float weights of the destination are dead" in str(mapping)
    assert {mapping.status(f"_frozen_param{i}") for i in range(4)} == {Status.PROVEN}


def test_a_mapping_of_dead_weights_alone_proves_nothing() -> None:
    src, dst = branches(1), _form("pt2e-x86-int8", 2)
    right = fxmap.auto_map(src, dst, verify=False)
    dead = {key: right[key] for key in right if key.endswith((".weight", "bias"))}
    proof = fxmap.verify(src, dst, fxmap.KeyMapping(dead))
    assert not proof.ok
    assert all(proof.statuses.get(key) is not Status.PROVEN for key in dead if key.endswith(".weight"))


def test_state_dict_of_another_export_has_other_ranges() -> None:
    src, dst = _form("pt2e-x86-int8", 1), _form("pt2e-x86-int8", 2)
    loaded = dst.load_state_dict(src.state_dict())
    assert not loaded.missing_keys
    assert not loaded.unexpected_keys
    assert sqnr(_run(src, DATA[0]), _run(dst, DATA[0])) < 25  # every key matched
    fxmap.transfer(src, dst, calibration=DATA)
    assert sqnr(_run(src, DATA[0]), _run(dst, DATA[0])) > 35


def test_replaced_head_of_a_converted_graph_is_named() -> None:
    dst = _form("fx-int8", 2)
    dst.head = nn.Linear(10, 5)
    with pytest.raises((RuntimeError, NotImplementedError)):
        _run(dst, DATA[0])
    with pytest.raises(fxmap.QuantizationError, match="head: a float layer stands inside the quantized part"):
        fxmap.transfer(branches(1), dst, calibration=DATA)


def test_metadata_is_carried() -> None:
    dst = _form("fx-int8", 2)
    src = branches(1)
    mapping = fxmap.auto_map(src, dst, verify=False)
    full = mapping.evaluate(src.state_dict(), like=dst.state_dict())
    copy.deepcopy(dst).load_state_dict(full)
    del full._metadata  # type: ignore[attr-defined]
    with pytest.raises((RuntimeError, KeyError)):
        copy.deepcopy(dst).load_state_dict(full)


def test_observers_keep_what_they_were_made_with() -> None:
    dst = _form("fx-prepared", 2)
    fxmap.transfer(branches(1), dst, calibration=DATA)
    eps = {key: value for key, value in dst.state_dict().items() if key.endswith(".eps")}
    assert eps
    assert all(torch.equal(value, _built("fx-prepared", 1).state_dict()[key]) for key, value in eps.items())


def test_norm_without_statistics_is_refused() -> None:
    src = branches(1)
    src.norm = nn.BatchNorm2d(4, track_running_stats=False)
    mapping = fxmap.auto_map(src, _form("pt2e-x86-int8", 2), verify=False)
    assert "no running statistics" in str(mapping)
    with pytest.raises(fxmap.FxmapError):
        mapping.load_into(_form("pt2e-x86-int8", 2), src.state_dict())


@pytest.mark.parametrize("name", ["fx-qat", "pt2e-x86-qat"])
def test_norm_of_weight_zero_is_refused_where_qat_would_give_nan(name: str) -> None:
    src, dst = branches(1, eps=eps_of(name)), _form(name, 2)
    with torch.no_grad():
        src.get_parameter("norm.weight")[1] = 0
    before = {key: value.clone() for key, value in dst.state_dict().items()}
    message = r"(stem.bn|norm).weight: 1 channels of this batch norm have the weight 0, by which"
    with pytest.raises(fxmap.QuantizationError, match=message):
        fxmap.transfer(src, dst)
    mapping = fxmap.auto_map(src, dst, verify=False)
    with pytest.raises(fxmap.QuantizationError, match="have the weight 0, by which"):
        mapping.load_into(dst, src.state_dict())
    assert all(torch.equal(value, before[key]) for key, value in dst.state_dict().items())


def test_norm_that_no_layer_is_divided_by_may_have_the_weight_zero() -> None:
    class Alone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu, self.norm = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.relu(self.conv(x)))

    src = Alone().eval()
    dst = quantize_fx.prepare_qat_fx(Alone().train(), tq.get_default_qat_qconfig_mapping("fbgemm"), (DATA[0],))
    nn.init.zeros_(src.norm.weight)
    fxmap.transfer(src, dst, verify=False)
    assert bool(_run(dst.eval(), DATA[0]).isfinite().all())


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_graph_is_as_it_was_where_its_code_cannot_be_made(
    monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    dst = _form("pt2e-x86-int8", 2)
    code, outputs = dst.code, dst(OTHER[0])
    arguments = [node.args for node in dst.graph.nodes]

    def interrupted(self: nn.Module) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(type(dst), "recompile", interrupted, raising=False)
        with pytest.raises((KeyboardInterrupt, fxmap.LoadError)):
            fxmap.transfer(branches(1), dst, calibration=DATA)
    assert dst.code == code
    assert [node.args for node in dst.graph.nodes] == arguments
    assert torch.equal(dst(OTHER[0]), outputs)


def test_a_model_that_does_not_run_on_the_first_batch_is_filled_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> float:
        raise ZeroDivisionError("no loss today")

    monkeypatch.setattr("fxmap.api.loss_notes.loss", fail)
    dst = _form("pt2e-x86-int8", 2)
    mapping = fxmap.transfer(branches(1), dst, calibration=DATA)
    assert "no loss today" in str(mapping)
