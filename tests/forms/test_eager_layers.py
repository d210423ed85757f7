"""A model without torchvision in it, as destination and source of every eager form."""

import warnings
from collections.abc import Iterator

import pytest
import torch
import torch.ao.quantization as tq
from torch import nn

import fxmap
from fxmap.mapping.proof import Status
from fxmap.run.noise import equal_states
from fxmap.testing.recipes import layers as recipes
from fxmap.testing.recipes.forms import Form, engine

pytestmark = pytest.mark.usefixtures("fbgemm")

FLOAT_FORMS = [Form.QUANTIZABLE, Form.FUSED, Form.FUSED_QAT, Form.QAT, Form.DYNAMIC]


@pytest.fixture(autouse=True)
def _engine() -> Iterator[None]:
    # That of the recipes. On CPUs with VNNI torch's default is another, whose transposed convolution is wrong in 1d.
    with engine("fbgemm"):
        yield


@pytest.mark.parametrize("form", [*FLOAT_FORMS, Form.PREPARED, Form.INT8_CHANNEL])
def test_every_stage_equals_the_reference(form: Form) -> None:
    src, data = recipes.randomised(1), recipes.batches(3)
    calibrated = form in (Form.PREPARED, Form.INT8_CHANNEL)
    reference = recipes.build_form(form, src.state_dict(), data)
    dst = recipes.build_form(form, recipes.randomised(2).state_dict(), recipes.batches(4))
    calibration = data if calibrated else None
    mapping = fxmap.transfer(src, dst, calibration=calibration, example_inputs=data[0], verify=False)
    state, expected = dst.state_dict(), reference.state_dict()
    assert not mapping.missing
    assert not mapping.unexpected
    kept = {key for key in state if mapping.status(key) is Status.KEPT}
    assert [key for key in expected if key not in kept and not equal_states(state[key], expected[key])] == []
    assert not calibrated or all("in_proj" in key or key.endswith("dtype") or "eps" in key for key in kept)
    with torch.no_grad():
        assert torch.equal(dst.eval()(*data[0]), reference.eval()(*data[0]))


@pytest.mark.parametrize("form", [Form.FUSED, Form.QAT, Form.INT8_CHANNEL, Form.DYNAMIC])
def test_back_to_float(form: Form) -> None:
    float_model, data = recipes.randomised(1), recipes.batches(3)
    src, dst = recipes.build_form(form, float_model.state_dict(), data), recipes.randomised(2)
    mapping = fxmap.transfer(src, dst, example_inputs=data[0], verify=False)
    assert not mapping.missing
    ratio = fxmap.sqnr(float_model(*data[0]), dst(*data[0]))
    assert ratio > (100 if form in (Form.FUSED, Form.QAT) else 30)


@pytest.mark.parametrize("source", [Form.QAT, Form.DYNAMIC, Form.INT8_CHANNEL])
def test_from_another_quantized_form(source: Form) -> None:
    data = recipes.batches(3)
    src = recipes.build_form(source, recipes.randomised(1).state_dict(), data)
    dst = recipes.build_form(Form.INT8_CHANNEL, recipes.randomised(2).state_dict(), recipes.batches(4))
    mapping = fxmap.transfer(src, dst, calibration=data, example_inputs=data[0], verify=False)
    assert not mapping.missing
    expected = recipes.build_form(Form.INT8_CHANNEL, recipes.randomised(1).state_dict(), data)
    assert fxmap.sqnr(expected(*data[0]), dst(*data[0])) > 25


CASES = [
    (lambda: nn.LSTM(8, 6, 2, bidirectional=True), torch.randn(5, 3, 8)),
    (lambda: nn.GRU(8, 6, 2, batch_first=True), torch.randn(5, 3, 8)),
    (lambda: nn.LSTMCell(8, 6), torch.randn(3, 8)),
    (lambda: nn.GRUCell(8, 6), torch.randn(3, 8)),
    (lambda: nn.RNNCell(8, 6, nonlinearity="relu"), torch.randn(3, 8)),
    (lambda: nn.Embedding(20, 8), torch.arange(12).reshape(2, 6)),
    (lambda: nn.EmbeddingBag(20, 8, mode="sum"), torch.arange(12).reshape(2, 6)),
]
KINDS = {nn.LSTM, nn.GRU, nn.LSTMCell, nn.GRUCell, nn.RNNCell}


def dynamic(model: nn.Module) -> nn.Module:
    spec = dict.fromkeys(KINDS, tq.default_dynamic_qconfig)
    weights = dict.fromkeys((nn.Embedding, nn.EmbeddingBag), tq.float_qparams_weight_only_qconfig)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tq.quantize_dynamic(nn.Sequential(model), spec | weights)


@pytest.mark.parametrize(("make", "inputs"), CASES, ids=lambda case: case()._get_name() if callable(case) else "")
def test_dynamic_layer_is_filled_and_read_back(make: type[nn.Module], inputs: torch.Tensor) -> None:
    src, dst = make(), dynamic(make())
    whole = nn.Sequential(src)
    expected = dynamic(src)
    mapping = fxmap.transfer(whole, dst, example_inputs=inputs)
    assert not mapping.missing
    assert mapping.proof.ok, str(mapping)
    assert all(equal_states(value, expected.state_dict()[key]) for key, value in dst.state_dict().items())
    ours, theirs = dst(inputs), expected(inputs)
    assert torch.equal(ours[0], theirs[0]) if isinstance(ours, tuple) else torch.equal(ours, theirs)

    scope: dict[str, object] = {}
    exec(mapping.to_python(), scope)
    by_hand = scope["convert"](whole.state_dict())
    assert all(equal_states(by_hand[key], dst.state_dict()[key]) for key in mapping)
    again = fxmap.KeyMapping.from_json(mapping.to_json())
    assert dict(again) == dict(mapping)

    back = nn.Sequential(make())
    fxmap.transfer(dst, back, example_inputs=inputs, verify=False)
    error = max(float((back.state_dict()[key] - value).abs().max()) for key, value in whole.state_dict().items())
    assert error < 0.02


def test_a_failure_puts_an_embedding_back() -> None:
    dst = dynamic(nn.Embedding(20, 8))
    inputs = torch.arange(12).reshape(2, 6)
    before = dst(inputs)
    mapping = fxmap.auto_map(nn.Sequential(nn.Embedding(20, 8)), dst, example_inputs=inputs, verify=False)
    full = mapping.evaluate({"0.weight": torch.randn(20, 8)}, like=dst.state_dict())
    full["0._packed_params.dtype"] = torch.float32
    with pytest.raises(fxmap.LoadError, match="its old values were put back"):
        mapping.write(dst, full)
    assert torch.equal(dst(inputs), before)


def test_half_precision_dynamic_layers_are_refused() -> None:
    dst = tq.quantize_dynamic(nn.Sequential(nn.LSTM(4, 4)), {nn.LSTM}, dtype=torch.float16)
    with pytest.raises(fxmap.QuantizationError, match=r"0: a dynamic layer with torch.float16 weights"):
        fxmap.auto_map(nn.Sequential(nn.LSTM(4, 4)), dst, example_inputs=torch.zeros(2, 2, 4))


@pytest.mark.usefixtures("little_effort")
def test_attention_that_torch_quantizes_into_another_function_is_named() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.quant, self.dequant = tq.QuantStub(), tq.DeQuantStub()
            self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.quant(x)
            return self.dequant(self.head(self.attention(x, x, x)[0]))

    inputs = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))
    dst = Attention().eval()
    vars(dst)["qconfig"] = tq.QConfig(activation=tq.default_observer, weight=tq.default_weight_observer)
    dst = tq.prepare(dst)
    proof = fxmap.auto_map(Attention().eval(), dst, example_inputs=inputs).proof
    assert not proof.ok
    assert "attention.out_proj" in str(proof.divergence)
