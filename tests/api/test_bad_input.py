"""What is refused, in which words, and that nothing was changed."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxmap
from fxmap.testing import compare
from fxmap.testing.compare import same_value
from fxmap.testing.recipes import forms, models, state_dicts
from fxmap.testing.recipes.forms import Form


def _refused(error: type[Exception], dst: nn.Module, call: Callable[[], Any]) -> str:
    """Call, expect the error, and check that the destination is as it was; return the message."""
    before = {key: value.clone() if isinstance(value, torch.Tensor) else value for key, value in dst.state_dict().items()}
    with pytest.raises(error) as caught:
        call()
    after = dst.state_dict()
    assert all(same_value(before[key], after[key]) for key in before)
    return str(caught.value)


@pytest.fixture(scope="module")
def source() -> nn.Module:
    return models.randomised_float("resnet18", seed=1)


def _int8(**kwargs: Any) -> nn.Module:
    weights = models.randomised_float("resnet18", seed=2, **kwargs).state_dict()
    return forms.build_form("resnet18", Form.INT8_CHANNEL, weights, models.images(4), **kwargs)


@pytest.fixture(scope="module")
def int8() -> nn.Module:
    return _int8()


def test_int8_without_calibration(source: nn.Module, int8: nn.Module) -> None:
    text = _refused(fxmap.MissingCalibration, int8, lambda: fxmap.transfer(source, int8, verify=False))
    assert "calibration=batches" in text
    assert 'calibration="keep"' in text
    mapping = fxmap.auto_map(source, int8, verify=False)
    _refused(fxmap.MissingCalibration, int8, lambda: mapping.load_into(int8, source.state_dict()))
    with pytest.raises(fxmap.MissingCalibration, match=r"conv1\.scale|quant\.scale"):
        mapping.apply(source.state_dict())


def test_calibration_without_batches(source: nn.Module, int8: nn.Module) -> None:
    text = _refused(fxmap.QuantizationError, int8, lambda: fxmap.transfer(source, int8, calibration=[], verify=False))
    assert "no batches" in text


def test_calibration_that_the_model_refuses(source: nn.Module, int8: nn.Module) -> None:
    batches = [torch.zeros(1, 5, 64, 64)]
    text = _refused(fxmap.QuantizationError, int8, lambda: fxmap.transfer(source, int8, calibration=batches, verify=False))
    assert "calibration batch 0" in text
    assert "5 channels" in text


def test_unknown_calibration(source: nn.Module, int8: nn.Module) -> None:
    _refused(ValueError, int8, lambda: fxmap.transfer(source, int8, calibration="guess", verify=False))


def test_labels_of_a_data_loader_are_dropped(source: nn.Module) -> None:
    dst, other = _int8(), _int8()
    images = models.images(3)
    fxmap.transfer(source, dst, calibration=[(x, torch.zeros(2)) for x in images], verify=False)
    fxmap.transfer(source, other, calibration=images, verify=False)
    assert all(same_value(value, other.state_dict()[key]) for key, value in dst.state_dict().items())


def test_per_channel_scheme_that_a_layer_refuses() -> None:
    import torch.ao.quantization as tq

    def build(qconfig: Any) -> nn.Module:
        model = nn.Sequential(tq.QuantStub(), nn.ConvTranspose2d(3, 4, 3), tq.DeQuantStub()).eval()
        model.qconfig = qconfig
        return model

    dst = tq.prepare(build(tq.get_default_qconfig("qnnpack")))
    dst(torch.randn(1, 3, 8, 8))
    tq.convert(dst, inplace=True)
    src = nn.Sequential(nn.ConvTranspose2d(3, 4, 3))
    batches = [torch.randn(1, 3, 8, 8)]
    fxmap.transfer(src, dst, calibration=batches, verify=False)
    text = _refused(
        fxmap.QuantizationError,
        dst,
        lambda: fxmap.transfer(src, dst, calibration=batches, qconfig=tq.get_default_qconfig("fbgemm"), verify=False),
    )
    assert "per-tensor weights" in text


def test_batch_norm_without_statistics() -> None:
    src = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU())
    dst = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    text = _refused(fxmap.LoadError, dst, lambda: fxmap.transfer(src, dst))
    assert "0.weight" in text
    assert "batch norm 1" in text
    assert "track_running_stats=False" in text


def test_float_head_on_a_converted_model(source: nn.Module) -> None:
    dst = _int8()
    dst.fc = nn.Linear(512, 10)
    mapping = fxmap.auto_map(source, dst)
    assert not mapping.proof.ok
    assert "num_classes=2" in str(mapping)
    text = _refused(fxmap.QuantizationError, dst, lambda: fxmap.transfer(source, dst, calibration=models.images(3)))
    assert text.startswith("fc: a float layer stands inside the quantized part")
    assert "num_classes=2" in text


def test_another_number_of_classes(source: nn.Module) -> None:
    dst = models.randomised_float("resnet18", seed=2, num_classes=7)
    text = _refused(fxmap.LoadError, dst, lambda: fxmap.transfer(source, dst, verify=False))
    assert "fc.weight: source fc.weight is [10, 512], destination [7, 512]" in text
    assert "120 of 122 keys are mapped" in text
    mapping = fxmap.transfer(source, dst, on_mismatch="keep", verify=False)
    assert mapping.mismatched == ["fc.weight", "fc.bias"]
    assert torch.equal(dst.state_dict()["conv1.weight"], source.state_dict()["conv1.weight"])


def test_int8_keeps_a_head_of_another_size(source: nn.Module) -> None:
    dst = _int8(num_classes=7)
    head = dst.state_dict()["fc._packed_params._packed_params"]
    _refused(fxmap.LoadError, dst, lambda: fxmap.transfer(source, dst, calibration=models.images(3), verify=False))
    fxmap.transfer(source, dst, calibration=models.images(3), on_mismatch="keep", verify=False)
    assert same_value(head, dst.state_dict()["fc._packed_params._packed_params"])
    assert dst(models.images(3)[0]).shape == (2, 7)


def test_the_literal_call_of_the_thread() -> None:
    src = models.randomised_float("inception_v3", seed=1, num_classes=2, aux_logits=False)
    weights = models.randomised_float("inception_v3", seed=2, num_classes=1000, aux_logits=True).state_dict()
    dst = forms.build_form("inception_v3", Form.INT8_CHANNEL, weights, models.images(4), num_classes=1000, aux_logits=True)
    mapping = fxmap.auto_map(src, dst, verify=False)
    left = set(mapping.mismatched) | set(mapping.missing)
    assert left == state_dicts.sourced_keys(dst) - set(mapping)
    assert all(key.startswith(("fc.", "AuxLogits.")) for key in left)
    text = _refused(fxmap.LoadError, dst, lambda: fxmap.transfer(src, dst, calibration=models.images(3), verify=False))
    assert "fc._packed_params" in text
    assert "AuxLogits" in text
    assert "num_classes, aux_logits" in text


def test_backend_x86_quantizes_nothing(source: nn.Module) -> None:
    dst = forms.build_form("resnet18", Form.FUSED, source.state_dict())
    assert 'backend="x86"' in str(fxmap.auto_map(source, dst, verify=False))
    text = _refused(
        fxmap.QuantizationError, dst, lambda: fxmap.transfer(source, dst, calibration=models.images(3), verify=False)
    )
    assert 'backend="x86"' in text


def test_different_networks(source: nn.Module) -> None:
    dst = models.randomised_float("mobilenet_v2", seed=2)
    mapping = fxmap.auto_map(source, dst)
    assert not mapping
    assert set(mapping.missing) == set(dst.state_dict())
    text = _refused(fxmap.DifferentNetworks, dst, lambda: mapping.load_into(dst, source.state_dict()))
    assert "different networks" in text
    assert "% of the operations" in text


@pytest.mark.parametrize("form", [Form.QUANTIZABLE, Form.FUSED, Form.PREPARED, Form.DYNAMIC])
def test_state_dict_without_metadata(source: nn.Module, form: Form) -> None:
    dst = forms.build_form("resnet18", form, models.randomised_float("resnet18", seed=2).state_dict())
    plain = dict(source.state_dict())
    made = fxmap.auto_map(source, dst, verify=False).apply(plain, like=dst.state_dict())
    assert made._metadata == dst.state_dict()._metadata  # type: ignore[attr-defined]
    dst.load_state_dict(made)
    assert torch.equal(
        compare.output(dst, models.images(3)[0]),
        compare.output(forms.reference_form(source, "resnet18", form), models.images(3)[0]),
    )


def test_int8_source_without_metadata(int8: nn.Module) -> None:
    dst = models.randomised_float("resnet18", seed=3)
    mapping = fxmap.auto_map(int8, dst, verify=False)
    mapping.load_into(dst, dict(int8.state_dict()))
    assert state_dicts.refolds("resnet18", dst, int8)


def test_data_parallel_prefix(source: nn.Module) -> None:
    wrapped = nn.DataParallel(source)
    dst = models.randomised_float("resnet18", seed=2)
    mapping = fxmap.auto_map(wrapped, dst, verify=False)
    assert mapping.renames["fc.weight"] == "module.fc.weight"
    assert mapping.load_into(dst, wrapped.state_dict()).written == 122
    other = models.randomised_float("resnet18", seed=3)
    assert fxmap.auto_map(source, other, verify=False).load_into(other, wrapped.state_dict()).written == 122
    assert all(same_value(value, other.state_dict()[key]) for key, value in dst.state_dict().items())


def test_arguments_of_verify_in_another_order_are_said() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(fxmap.MappingError, match=r"mapping is the model Linear: call verify\(src, dst, mapping\)"):
        fxmap.verify(fxmap.KeyMapping({}), model, model)  # type: ignore[arg-type]


def test_a_dict_that_forward_takes_as_one_argument_is_one() -> None:
    class Batch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            if batch["x"].shape[-1] != 4:
                raise ValueError("of another width")
            result: Tensor = self.fc(batch["x"]) * batch["scale"]
            return result

    batch = {"x": torch.randn(2, 4), "scale": torch.randn(2, 4)}
    assert fxmap.auto_map(Batch(), Batch(), example_inputs=batch).proof.ok
    assert fxmap.verify(Batch(), Batch(), {key: key for key in Batch().state_dict()}, example_inputs=batch).ok
