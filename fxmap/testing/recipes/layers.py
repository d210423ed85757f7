"""A model without torchvision in it, and its quantized forms made without fxmap.

As in `forms`: a *reference* has its float weights loaded before it is fused, prepared, calibrated and
converted; a *destination* is the same form, built from other weights and other data.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
import torch.ao.quantization as tq
from torch import Tensor, nn
from torch.ao.nn.quantized import FloatFunctional

from fxmap.testing.recipes.forms import Form, State, engine

Batch = tuple[Tensor, Tensor]
TOKENS, WIDTH = 30, 16


class Layers(nn.Module):
    """Most layers that torch can quantize and torchvision does not use: tokens `b t` and volumes `b 2 d h w` to `b 5`."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(TOKENS, WIDTH)
        self.quant_tokens, self.quant_volume, self.dequant = tq.QuantStub(), tq.QuantStub(), tq.DeQuantStub()
        self.norm = nn.LayerNorm(WIDTH)
        self.lstm = nn.LSTM(WIDTH, WIDTH, batch_first=True)
        self.attention = nn.MultiheadAttention(WIDTH, 4)
        self.add, self.join = FloatFunctional(), FloatFunctional()
        self.conv1, self.relu1 = nn.Conv1d(WIDTH, WIDTH, 3), nn.ReLU()
        self.up = nn.ConvTranspose1d(WIDTH, 8, 2, stride=2)
        self.group = nn.GroupNorm(2, 8)
        self.conv3, self.relu3 = nn.Conv3d(2, 8, 3), nn.ReLU()
        self.hidden, self.hidden_norm = nn.Linear(16, 12), nn.BatchNorm1d(12)
        self.head = nn.Linear(12, 5)

    def forward(self, tokens: Tensor, volume: Tensor) -> Tensor:
        """Return logits."""
        x = self.norm(self.quant_tokens(self.embedding(tokens)))
        x, _ = self.lstm(x)
        # With batch_first, torch's quantizable attention computes another function: it views where it has to transpose.
        x = x.transpose(0, 1)
        attended, _ = self.attention(x, x, x)
        x = self.relu1(self.conv1(self.add.add(x, attended).permute(1, 2, 0)))
        x = self.group(self.up(x)).mean(2)
        v = self.relu3(self.conv3(self.quant_volume(volume))).mean((2, 3, 4))
        return self.dequant(self.head(self.hidden_norm(self.hidden(self.join.cat([x, v], 1)))))  # type: ignore[no-any-return]


FUSED = [["conv1", "relu1"], ["conv3", "relu3"], ["hidden", "hidden_norm"]]


def batches(seed: int, *, count: int = 2) -> list[Batch]:
    """Draw batches of four inputs."""
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randint(0, TOKENS, (4, 10), generator=generator), torch.randn(4, 2, 6, 6, 6, generator=generator))
        for _ in range(count)
    ]


def randomised(seed: int) -> nn.Module:
    """Build the float model in eval mode with every parameter and statistic drawn at random."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Layers()
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                if name.startswith(("norm.", "group.", "hidden_norm.")) and tensor.is_floating_point():
                    tensor.uniform_(0.5, 1.5)
                elif name.endswith("bias"):
                    tensor.normal_(0, 0.1)
        count = model.hidden_norm.num_batches_tracked
        assert count is not None
        count.fill_(seed)
    return model.eval()


def build_form(form: Form, weights: State, data: Sequence[Batch] = ()) -> nn.Module:
    """Build a form by the reference recipe; see `forms.build_form`."""
    model: Any = Layers().eval()
    model.load_state_dict(weights)
    with engine("fbgemm"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if form is Form.DYNAMIC:
            return tq.quantize_dynamic(model, dynamic_spec(), inplace=True)  # type: ignore[no-any-return]
        if form in (Form.FLOAT, Form.QUANTIZABLE):
            return model  # type: ignore[no-any-return]
        if form in (Form.FUSED_QAT, Form.QAT):
            tq.fuse_modules_qat(model.train(), FUSED, inplace=True)
            if form is Form.QAT:
                _configure(model, qat=True)
                tq.prepare_qat(model, inplace=True)
            return model  # type: ignore[no-any-return]
        tq.fuse_modules(model, FUSED, inplace=True)
        if form is Form.FUSED:
            return model  # type: ignore[no-any-return]
        _configure(model, qat=False)
        tq.prepare(model, inplace=True)
        with torch.no_grad():
            for batch in data:
                model(*batch)
        return model if form is Form.PREPARED else tq.convert(model, inplace=True)  # type: ignore[no-any-return]


def dynamic_spec() -> dict[Any, Any]:
    """Say what dynamic quantization does to each kind of layer."""
    int8 = tq.default_dynamic_qconfig
    return {nn.Linear: int8, nn.LSTM: int8, nn.Embedding: tq.float_qparams_weight_only_qconfig}


def _configure(model: Any, *, qat: bool) -> None:
    usual = tq.QConfig(activation=tq.default_observer, weight=tq.default_per_channel_weight_observer)
    # Transposed convolutions have no weights per channel, and embeddings a kind of their own.
    tensor = tq.QConfig(activation=tq.default_observer, weight=tq.default_weight_observer)
    model.qconfig = tq.get_default_qat_qconfig("fbgemm") if qat else usual
    model.up.qconfig = None if qat else tensor
    model.embedding.qconfig = None if qat else tq.float_qparams_weight_only_qconfig
    if qat:
        model.lstm.qconfig = model.attention.qconfig = None
