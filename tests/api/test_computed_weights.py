"""A file whose weights are stored as several tensors gives the function of the model that it was saved from."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

import fxmap

X = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))


def plain(hidden: int = 8) -> nn.Module:
    torch.manual_seed(hidden)
    return nn.Sequential(nn.Linear(6, hidden), nn.Tanh(), nn.Linear(hidden, 4)).eval()


def wrapped(wrap: Callable[[nn.Module], object]) -> nn.Module:
    model = plain()
    for layer in (model[0], model[2]):  # type: ignore[index]
        wrap(layer)
    return model.eval()


def agrees(dst: nn.Module, expected: Tensor, tolerance: float = 1e-5) -> None:
    with torch.no_grad():
        torch.testing.assert_close(dst(X), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "wrap",
    [
        weight_norm,
        lambda layer: weight_norm(layer, dim=None),  # type: ignore[arg-type]
        parametrizations.weight_norm,
        spectral_norm,
        parametrizations.spectral_norm,
        lambda layer: prune.l1_unstructured(layer, "weight", 0.4),
    ],
    ids=["weight norm", "weight norm, one size", "weight norm, new", "spectral norm", "spectral norm, new", "pruning"],
)
@pytest.mark.parametrize("with_src", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_weights_of_hooks_and_parametrizations_are_computed(wrap: Any, with_src: bool) -> None:
    src, dst = wrapped(wrap), plain(8)
    with torch.no_grad():
        for parameter in src.parameters():
            parameter.mul_(1.3)
        expected = src(X)
        dst.get_parameter("0.weight").zero_()
    mapping = fxmap.load(dst, src.state_dict(), src=plain() if with_src else None)
    agrees(dst, expected)
    assert not mapping.missing


WRAPS: dict[str, Any] = {
    "weight norm": weight_norm,
    "weight norm, new": parametrizations.weight_norm,
    "spectral norm": spectral_norm,
}


@pytest.mark.parametrize("with_src", [False, True])
@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.filterwarnings("ignore")
def test_a_plain_weight_beside_another_form_of_it_is_refused_where_their_numbers_differ(wrap: str, with_src: bool) -> None:
    state = wrapped(WRAPS[wrap]).state_dict()
    beside = {**state, "0.weight": torch.randn(8, 6)}
    dst = plain(8)
    before = dst(X)
    with pytest.raises(fxmap.LoadError, match=r"0\.weight stands beside .* make other numbers"):
        fxmap.load(dst, beside, src=plain() if with_src else None)
    agrees(dst, before)


@pytest.mark.parametrize("wrap", ["weight norm", "weight norm, new"])
@pytest.mark.filterwarnings("ignore")
def test_a_plain_weight_beside_another_form_of_the_same_numbers_is_read(wrap: str) -> None:
    src, dst = wrapped(WRAPS[wrap]), plain(8)
    with torch.no_grad():
        for parameter in src.parameters():
            parameter.mul_(1.3)
        expected = src(X)
        weight = (src[0].weight).detach().clone()  # type: ignore[index]
    fxmap.load(dst, {**src.state_dict(), "0.weight": weight}, src=plain())
    agrees(dst, expected)


@pytest.mark.parametrize("wrap", [weight_norm, parametrizations.weight_norm])
def test_a_plain_weight_gives_direction_and_size_of_weight_norm(wrap: Any) -> None:
    src, dst = plain(), wrapped(wrap)
    with torch.no_grad():
        for parameter in dst.parameters():
            parameter.normal_()
    mapping = fxmap.load(dst, src.state_dict())
    agrees(dst, src(X))
    assert fxmap.KeyMapping.from_json(mapping.to_json()) == mapping


def test_a_plain_weight_does_not_determine_a_mask_and_the_message_says_so() -> None:
    dst = wrapped(lambda layer: prune.l1_unstructured(layer, "weight", 0.4))
    with pytest.raises(fxmap.LoadError, match="pruning with masks"):
        fxmap.load(dst, plain().state_dict())


def adapted(model: nn.Module, form: str, alpha: float = 8.0) -> tuple[dict[str, Tensor], nn.Module]:
    """Return the state dict of a model with adapters as peft spells it, and the merged model."""
    merged = copy.deepcopy(model)
    state: dict[str, Tensor] = {}
    for path in ("0", "2"):
        layer = merged.get_submodule(path)
        assert isinstance(layer, nn.Linear)
        a, b = torch.randn(2, layer.in_features), torch.randn(layer.out_features, 2)
        stem = f"base_model.model.{path}"
        name = ".default" if form == "whole" else ""
        state |= {f"{stem}.lora_A{name}.weight": a, f"{stem}.lora_B{name}.weight": b}
        if form == "whole":
            state |= {f"{stem}.base_layer.weight": layer.weight.data.clone(), f"{stem}.base_layer.bias": layer.bias.data}
        layer.weight.data += alpha / 2 * b @ a
    return state, merged


def test_adapters_are_merged_where_the_strength_is_given() -> None:
    state, merged = adapted(plain(), "whole")
    dst = plain(8)
    with pytest.raises(fxmap.LoadError, match="lora_alpha"):
        fxmap.load(dst, state)
    mapping = fxmap.load(dst, state, lora_alpha=8)
    agrees(dst, merged(X))
    assert str(mapping["0.weight"]) == (
        "base_model.model.0.base_layer.weight + base_model.model.0.lora_B.default.weight @ "
        "base_model.model.0.lora_A.default.weight * 4"
    )


def test_base_and_adapter_in_two_files_are_merged_by_the_config_beside_them(tmp_path: Path) -> None:
    base = plain()
    state, merged = adapted(base, "adapter", alpha=5.0)
    save_file(state, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 5, "r": 2, "peft_type": "LORA"}))
    torch.save(base.state_dict(), tmp_path / "base.pth")
    dst = plain(8)
    with pytest.raises(fxmap.LoadError, match="an adapter alone"):
        fxmap.load(dst, tmp_path)
    fxmap.load(dst, [tmp_path / "base.pth", tmp_path / "adapter_model.safetensors"])
    agrees(dst, merged(X))


def test_an_adapter_with_sizes_of_rows_is_merged_as_dora_is() -> None:
    state, merged = adapted(plain(), "whole")
    for path in ("0", "2"):
        layer = merged.get_submodule(path)
        assert isinstance(layer, nn.Linear)
        sizes = torch.rand(layer.out_features) + 0.5
        state[f"base_model.model.{path}.lora_magnitude_vector.default.weight"] = sizes
        layer.weight.data *= (sizes / layer.weight.data.norm(dim=1))[:, None]
    dst = plain(8)
    fxmap.load(dst, state, lora_alpha=8)
    agrees(dst, merged(X))


class Adapted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base_layer, self.lora_A, self.lora_B = nn.Linear(6, 4), nn.Linear(6, 2, bias=False), nn.Linear(2, 4, bias=False)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base_layer(x) + self.lora_B(self.lora_A(x))
        return y


def test_fresh_adapters_of_the_destination_are_kept_and_trained_ones_are_missing() -> None:
    dst, file = nn.Sequential(Adapted()), nn.Sequential(nn.Linear(6, 4)).state_dict()
    mapping = fxmap.load(dst, file)
    assert mapping.status("0.lora_B.weight") is fxmap.Status.KEPT
    nn.init.ones_(dst.get_parameter("0.lora_B.weight"))
    with pytest.raises(fxmap.LoadError, match="an adapter"):
        fxmap.load(dst, file)
    with pytest.warns(fxmap.ProofWarning, match=r"keep their own values: 0\.lora_A\.weight, 0\.lora_B\.weight"):
        fxmap.load(dst, file, on_mismatch="keep")
    assert torch.equal(dst.get_parameter("0.base_layer.weight"), file["0.weight"])


def in_eight_bits(state: dict[str, Tensor], ending: str, dtype: torch.dtype) -> dict[str, Tensor]:
    made = {}
    for key, value in state.items():
        if value.dim() < 2:
            made[key] = value
            continue
        top = 448 if dtype is torch.float8_e4m3fn else 127
        scale = value.abs().amax(1, keepdim=True) / top
        made[key] = (value / scale).to(dtype) if dtype.is_floating_point else (value / scale).round().to(dtype)
        made[key.removesuffix("weight") + ending] = scale.flatten() * (127 if ending == "SCB" else 1)
    return made


@pytest.mark.parametrize(
    ("ending", "dtype"), [("weight_scale", torch.float8_e4m3fn), ("weight_scale", torch.int8), ("SCB", torch.int8)]
)
def test_numbers_of_eight_bits_are_multiplied_by_their_scales(ending: str, dtype: torch.dtype) -> None:
    src, dst = plain(), plain(8)
    mapping = fxmap.load(dst, in_eight_bits(src.state_dict(), ending, dtype))
    with torch.no_grad():
        assert float((dst(X) - src(X)).abs().max() / src(X).abs().max()) < (0.1 if dtype.is_floating_point else 0.02)
    assert fxmap.KeyMapping.from_json(mapping.to_json()) == mapping
    assert any("computed from several tensors" in note for note in mapping.knowledge.notes)


def test_activation_scales_beside_a_weight_are_no_loss() -> None:
    file = in_eight_bits(plain().state_dict(), "weight_scale", torch.float8_e4m3fn) | {"0.input_scale": torch.tensor(0.3)}
    dst = plain(8)
    assert not fxmap.load(dst, file).missing


def nf4(weight: Tensor, block: int = 64) -> dict[str, Tensor]:
    table = torch.linspace(-1, 1, 16)
    parts = weight.flatten().reshape(-1, block)
    absmax = parts.abs().amax(1)
    codes = ((parts / absmax[:, None]).flatten()[:, None] - table).abs().argmin(1)
    about = json.dumps({"quant_type": "nf4", "blocksize": block, "dtype": "float32", "shape": list(weight.shape)})
    return {
        "": ((codes[::2] << 4) | codes[1::2]).to(torch.uint8)[:, None],
        ".absmax": absmax,
        ".quant_map": table,
        ".quant_state.bitsandbytes__nf4": torch.tensor(list(about.encode()), dtype=torch.uint8),
    }


def test_bitsandbytes_in_four_bits_is_looked_up() -> None:
    src, dst = nn.Linear(64, 6), nn.Linear(64, 6)
    file = {f"weight{end}": value for end, value in nf4(src.weight.data).items()} | {"bias": src.bias.data}
    mapping = fxmap.load(dst, file)
    assert float((dst.weight - src.weight).detach().abs().max()) < 0.15 * float(src.weight.detach().abs().max())
    assert not mapping.left_in_file
    with pytest.raises(fxmap.LoadError, match="does not say the shape"):
        fxmap.load(dst, file | {"weight.quant_state.bitsandbytes__nf4": torch.zeros(8, dtype=torch.uint8)})


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("said", [True, False])
def test_gptq_is_read_in_the_version_that_the_config_says_or_the_weights_show(
    tmp_path: Path, shift: int, said: bool
) -> None:
    torch.manual_seed(0)
    src, dst = nn.Sequential(nn.Linear(64, 16)), nn.Sequential(nn.Linear(64, 16))
    weight = src.get_parameter("0.weight").data.t()
    scale = (weight.amax(0) - weight.amin(0)) / 15
    zero = (-weight.amin(0) / scale).round()
    q = (weight / scale + zero).round().clamp(0, 15).long()
    words, zeros = torch.zeros(8, 16, dtype=torch.int64), torch.zeros(1, 2, dtype=torch.int64)
    for place in range(8):
        words |= q[place::8] << (4 * place)
        zeros |= ((zero[place::8].long()[None] - shift) & 15) << (4 * place)
    as_words = [torch.where(part >= 2**31, part - 2**32, part).int() for part in (words, zeros)]
    file = {"0.qweight": as_words[0], "0.qzeros": as_words[1], "0.scales": scale[None].half(), "0.bias": src[0].bias.data}
    save_file({key: value.contiguous() for key, value in file.items()}, tmp_path / "model.safetensors")
    if said:
        config = {"quantization_config": {"checkpoint_format": "gptq" if shift else "gptq_v2"}}
        (tmp_path / "config.json").write_text(json.dumps(config))
    fxmap.load(dst, tmp_path)
    error = dst.get_parameter("0.weight") - src.get_parameter("0.weight")
    assert float(error.detach().abs().max()) < float(scale.max())


def test_what_is_made_of_packed_weights_is_written_as_python() -> None:
    src, dst = plain(), plain(8)
    file = in_eight_bits(src.state_dict(), "SCB", torch.int8)
    mapping = fxmap.auto_map(file, dst)
    namespace: dict[str, Any] = {}
    exec(mapping.to_python(), namespace)
    assert torch.equal(namespace["convert"](file)["0.weight"], mapping.apply(file)["0.weight"])


def test_layers_that_the_destination_has_without_weight_norm_are_computed_and_the_others_are_taken() -> None:
    src = wrapped(parametrizations.weight_norm)
    dst = plain(8)
    parametrizations.weight_norm(dst.get_submodule("2"))
    fxmap.load(dst, src.state_dict())
    agrees(dst, src(X))


def test_a_layer_whose_adapter_cannot_be_merged_is_not_read_without_it() -> None:
    state, _ = adapted(plain(), "whole")
    mapping = fxmap.auto_map(state, plain(8))
    assert not len(mapping)
    assert any("lora_alpha" in note for note in mapping.knowledge.notes)


@pytest.mark.parametrize("name", ["weight_orig", "weight_v", "weight_g"])
def test_half_of_a_computed_weight_is_not_taken_for_the_weight(name: str) -> None:
    plain = nn.Linear(4, 4)
    file = {f"0.{name}": plain.weight.detach(), "0.bias": plain.bias.detach()}
    with pytest.raises(fxmap.LoadError, match=rf"0\.{name} is .* the file lacks"):
        fxmap.load(nn.Sequential(nn.Linear(4, 4)), file)


def test_eight_bits_without_the_scale_that_others_have_are_refused_and_unscaled_ones_are_weights() -> None:
    weights = [torch.randn(4, 4) for _ in range(2)]
    file: dict[str, Tensor] = {f"{n}.weight": w.to(torch.float8_e4m3fn) for n, w in enumerate(weights)}
    dst = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    fxmap.load(dst, file)
    assert torch.equal(dst.state_dict()["1.weight"], file["1.weight"].float())
    with pytest.raises(fxmap.LoadError, match=r"1\.weight has 8 bits .* while 0\.weight has one"):
        fxmap.load(dst, file | {"0.weight_scale": torch.ones(1)})
    full = (weights[1] / weights[1].abs().max() * 448).to(torch.float8_e4m3fn)
    with pytest.raises(fxmap.LoadError, match="up to the largest of its dtype"):
        fxmap.load(dst, file | {"1.weight": full})
