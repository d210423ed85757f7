"""Every eager quantized form of torchvision's models, against the reference recipe."""

import pytest
import torch
import torchvision

import fxmap
from fxmap.mapping.findings import NoteKind
from fxmap.mapping.proof import Status
from fxmap.testing import compare
from fxmap.testing.compare import same_value
from fxmap.testing.recipes import forms, models, state_dicts
from fxmap.testing.recipes.forms import Form
from fxmap.testing.renamed import renamed

FAST = ["resnet18", "mobilenet_v3_large", "shufflenet_v2_x0_5"]
SLOW = [name for name in models.MODELS if name not in FAST]
MODELS = [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
FLOAT_FORMS = [Form.QUANTIZABLE, Form.FUSED, Form.FUSED_QAT, Form.PREPARED, Form.QAT, Form.DYNAMIC]
INT8_FORMS = [Form.INT8_CHANNEL, Form.INT8_TENSOR]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("form", FLOAT_FORMS)
def test_float_form_equals_the_reference(name: str, form: Form) -> None:
    src = models.randomised_float(name, seed=1)
    reference = forms.reference_form(src, name, form)
    dst = forms.build_form(name, form, models.randomised_float(name, seed=2).state_dict())
    sourced = state_dicts.sourced_keys(dst)

    mapping = fxmap.auto_map(src, dst, verify=False)
    loaded = mapping.load_into(dst, src.state_dict())

    assert not loaded.missing_keys
    assert not loaded.unexpected_keys
    assert set(mapping) == sourced
    state, expected = dst.state_dict(), reference.state_dict()
    assert [key for key in mapping if not same_value(state[key], expected[key])] == []
    assert [key for key in state if key not in sourced and mapping.status(key) is not Status.KEPT] == []


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("form", INT8_FORMS)
@pytest.mark.parametrize("default_qconfig", [True, False])
def test_int8_equals_the_reference(name: str, form: Form, default_qconfig: bool) -> None:
    with forms.engine(form.engine):
        qconfig = None if default_qconfig else torch.ao.quantization.get_default_qconfig(form.engine)
        batches = models.images(3)
        src = models.randomised_float(name, seed=1)
        reference = forms.reference_form(src, name, form, batches, qconfig=qconfig)
        dst = forms.build_form(name, form, models.randomised_float(name, seed=2).state_dict(), models.images(4))

        mapping = fxmap.transfer(src, dst, calibration=batches, qconfig=qconfig, verify=False)

        state, expected = dst.state_dict(), reference.state_dict()
        assert [key for key in expected if not same_value(state[key], expected[key])] == []
        assert torch.equal(dst(batches[0]), reference(batches[0]))
        assert {mapping.status(key) for key in mapping.knowledge.ranges} == {Status.CALIBRATED}


def test_int8_keeps_its_ranges_at_the_users_word() -> None:
    src = models.randomised_float("resnet18", seed=1)
    dst = forms.build_form(
        "resnet18", Form.INT8_CHANNEL, models.randomised_float("resnet18", seed=2).state_dict(), models.images(4)
    )
    before = dst.state_dict()
    mapping = fxmap.transfer(src, dst, calibration="keep", verify=False)
    after = dst.state_dict()
    assert all(same_value(before[key], after[key]) for key in mapping.knowledge.ranges)
    assert not same_value(before["conv1.weight"], after["conv1.weight"])


def test_prepared_model_is_calibrated_from_fresh_observers() -> None:
    batches = models.images(3)
    src = models.randomised_float("resnet18", seed=1)
    reference = forms.reference_form(src, "resnet18", Form.PREPARED, batches)
    dst = forms.build_form(
        "resnet18", Form.PREPARED, models.randomised_float("resnet18", seed=2).state_dict(), models.images(4)
    )
    fxmap.transfer(src, dst, calibration=batches, verify=False)
    state, expected = dst.state_dict(), reference.state_dict()
    assert [key for key in expected if not same_value(state[key], expected[key])] == []


@pytest.mark.parametrize("form", [Form.QUANTIZABLE, Form.FUSED, Form.QAT, Form.INT8_CHANNEL])
def test_proven(form: Form) -> None:
    src = models.randomised_float("resnet18", seed=1)
    dst = forms.build_form("resnet18", form, models.randomised_float("resnet18", seed=2).state_dict(), models.images(4))
    mapping = fxmap.auto_map(src, dst)
    assert mapping.proof.ok, str(mapping)
    read = [key for key in mapping if "num_batches_tracked" not in key]
    assert {mapping.status(key) for key in read} == {Status.PROVEN}


@pytest.mark.parametrize("form", [Form.QUANTIZABLE, Form.FUSED, Form.PREPARED, Form.QAT, Form.INT8_CHANNEL])
@pytest.mark.parametrize("name", ["resnet18", "shufflenet_v2_x0_5", pytest.param("inception_v3", marks=pytest.mark.slow)])
def test_names_and_order_carry_no_weight(name: str, form: Form) -> None:
    batches = models.images(3)
    src = models.randomised_float(name, seed=1)
    expected = forms.reference_form(src, name, form, batches)
    expected_output = compare.output(expected, batches[0])
    dst = forms.build_form(name, form, models.randomised_float(name, seed=2).state_dict(), models.images(4))
    renamed(src, 1), renamed(dst, 2)
    mapping = fxmap.transfer(src, dst, calibration=batches if form.is_static_int8 else None, verify=False)
    assert not mapping.missing
    if form is Form.QAT:  # its observers saw other data
        assert len(mapping) == len(state_dicts.sourced_keys(expected))
    else:
        assert torch.equal(compare.output(dst, batches[0]), expected_output)


def test_back_from_qat_is_exact() -> None:
    source = models.randomised_float("resnet18", seed=1)
    qat = forms.reference_form(source, "resnet18", Form.QAT)
    dst = models.randomised_float("resnet18", seed=2)
    fxmap.transfer(qat, dst, verify=False)
    assert all(same_value(value, source.state_dict()[key]) for key, value in dst.state_dict().items())


@pytest.mark.parametrize("name", ["resnet18", pytest.param("inception_v3", marks=pytest.mark.slow)])
def test_back_from_int8_refolds_exactly(name: str) -> None:
    int8 = forms.reference_form(models.randomised_float(name, seed=1), name, Form.INT8_CHANNEL, models.images(3))
    dst = models.randomised_float(name, seed=2)
    mapping = fxmap.transfer(int8, dst, verify=False)
    assert not mapping.missing
    assert state_dicts.refolds(name, dst, int8)


@pytest.mark.parametrize("form", [Form.QUANTIZABLE, Form.FUSED, Form.INT8_CHANNEL])
@pytest.mark.parametrize(("ours", "theirs"), [(True, False), (False, True), (True, True), (False, False)])
def test_auxiliary_heads_on_either_side(form: Form, ours: bool, theirs: bool) -> None:
    src = models.randomised_float("googlenet", seed=1, aux_logits=ours)
    dst = forms.build_form(
        "googlenet",
        form,
        models.randomised_float("googlenet", seed=2, aux_logits=theirs).state_dict(),
        models.images(4),
        aux_logits=theirs,
    )
    mapping = fxmap.transfer(src, dst, calibration=models.images(3) if form.is_static_int8 else None, verify=False)
    auxiliary = [key for key in state_dicts.sourced_keys(dst) if key.startswith("aux")]
    assert (
        all(key in mapping for key in auxiliary)
        if ours
        else set(mapping.missing) | set(mapping.knowledge.reasons) >= set(auxiliary)
    )
    assert any(key.startswith("aux") for key in mapping.unexpected) == (ours and not theirs)
    if ours and theirs:
        batches = models.images(3)
        expected = forms.reference_form(src, "googlenet", form, batches).state_dict()
        assert [key for key in mapping if not same_value(dst.state_dict()[key], expected[key])] == []


@pytest.mark.parametrize("form", [Form.QUANTIZABLE, Form.FUSED])
def test_eps_of_the_source_is_used_where_it_is_folded_and_named_where_it_is_not(form: Form) -> None:
    src = models.randomised_float("resnet18", seed=1)
    for module in src.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = 1e-3
    dst = forms.build_form("resnet18", form, models.randomised_float("resnet18", seed=2).state_dict())
    mapping = fxmap.auto_map(src, dst)
    if form is Form.FUSED:
        assert mapping.proof.ok
        return
    assert not mapping.proof.ok
    assert "eps 1e-05 against 0.001" in str(mapping.proof.divergence)
    assert "absorb_eps=True" in str(mapping.proof.divergence)
    assert fxmap.auto_map(src, dst, absorb_eps=True).proof.ok


def test_source_in_training_mode_stays_there() -> None:
    src = models.randomised_float("inception_v3", seed=1, aux_logits=True).train()
    dst = forms.build_form("inception_v3", Form.QUANTIZABLE, models.randomised_float("inception_v3", seed=2).state_dict())
    mapping = fxmap.auto_map(src, dst, verify=False)
    assert len(mapping) == len(dst.state_dict())
    assert all(module.training for module in src.modules())


def test_the_loss_on_the_first_batch_is_told_in_decibels() -> None:
    src = torchvision.models.resnet18(num_classes=3)
    dst = torchvision.models.quantization.resnet18(weights=None, quantize=True, num_classes=3)
    mapping = fxmap.transfer(src, dst, calibration=[torch.randn(2, 3, 64, 64)], verify=False)
    (note,) = mapping.knowledge.notes_of(NoteKind.CALIBRATED)
    assert "dB signal to noise" in note
