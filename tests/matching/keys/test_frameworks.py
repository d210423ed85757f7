"""Names and layouts of whole networks in other frameworks: no wrong key, and none left open."""

import pytest
import torch
from torch import Tensor
from torchvision.models import VisionTransformer, resnet18

from fxmap.matching.keys.mapper import map_by_name

NORM = {
    "flax": {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"},
    "keras": {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"},
}


def in_framework(own: dict[str, Tensor], layers: dict[str, str], style: str) -> dict[str, tuple[str, Tensor]]:
    """Return for every key the name in the framework and the tensor in its layout."""
    found = {}
    for key, value in own.items():
        layer, _, leaf = key.rpartition(".")
        if leaf == "num_batches_tracked":
            continue
        name = layers[layer]
        if value.dim() > 1:
            found[key] = f"{name}/kernel", value.permute((2, 3, 1, 0) if value.dim() == 4 else (1, 0))
        elif f"{layer}.running_mean" in own or "norm" in name.lower():
            found[key] = f"{name}/{NORM[style][leaf]}", value
        else:
            found[key] = f"{name}/{leaf}", value
    if style == "flax":
        found = {
            key: (f"batch_stats/{name}" if name.endswith(("/mean", "/var")) else f"params/{name}", value)
            for key, (name, value) in found.items()
        }
    return found


def resnet_layers(style: str) -> dict[str, str]:
    flax = style == "flax"
    found = {
        "conv1": "conv_init" if flax else "conv1_conv",
        "bn1": "bn_init" if flax else "conv1_bn",
        "fc": "Dense_0" if flax else "predictions",
    }
    for number in range(8):
        stage, block = divmod(number, 2)
        ours, theirs = f"layer{stage + 1}.{block}", f"ResNetBlock_{number}" if flax else f"conv{stage + 2}_block{block + 1}"
        for place in (1, 2):
            found[f"{ours}.conv{place}"] = f"{theirs}/Conv_{place - 1}" if flax else f"{theirs}_{place}_conv"
            found[f"{ours}.bn{place}"] = f"{theirs}/BatchNorm_{place - 1}" if flax else f"{theirs}_{place}_bn"
        if stage and not block:
            found[f"{ours}.downsample.0"] = f"{theirs}/conv_proj" if flax else f"{theirs}_0_conv"
            found[f"{ours}.downsample.1"] = f"{theirs}/norm_proj" if flax else f"{theirs}_0_bn"
    return found


@pytest.mark.parametrize("style", ["flax", "keras"])
@pytest.mark.parametrize("by_name", [True, False])
def test_a_resnet_is_mapped_from_the_names_of_its_framework(style: str, by_name: bool) -> None:
    with torch.device("meta"):
        own = resnet18(num_classes=10).state_dict()
    pairs = in_framework(own, resnet_layers(style), style)
    ordered = sorted(pairs.values()) if by_name and style == "flax" else list(pairs.values())
    mapping = map_by_name(dict(ordered), own, "test")
    assert {key: next(iter(mapping[key].sources()), "") for key in pairs if key in mapping} == {
        key: name for key, (name, _) in pairs.items()
    }
    made = mapping["layer1.0.conv1.weight"]
    assert "permute" in str(made)


@pytest.mark.parametrize("style", ["npz", "h5"])
def test_a_vision_transformer_is_mapped_from_the_names_of_its_framework(style: str) -> None:
    width, heads = 24, 3
    with torch.device("meta"):
        own = VisionTransformer(32, 16, 3, heads, width, 48, num_classes=5).state_dict()
    src: dict[str, Tensor] = {}
    expected: dict[str, set[str]] = {}

    def put(key: str, *values: tuple[str, Tensor]) -> None:
        src.update(values)
        expected[key] = {name for name, _ in values}

    big = style == "npz"
    end = "" if big else ":0"
    put("class_token", ("cls" if big else f"vit/embeddings/cls_token{end}", own["class_token"]))
    place = "Transformer/posembed_input/pos_embedding" if big else f"vit/embeddings/position_embeddings{end}"
    put("encoder.pos_embedding", (place, own["encoder.pos_embedding"]))
    stem = "embedding" if big else "vit/embeddings/patch_embeddings/projection"
    put("conv_proj.weight", (f"{stem}/kernel{end}", own["conv_proj.weight"].permute(2, 3, 1, 0)))
    put("conv_proj.bias", (f"{stem}/bias{end}", own["conv_proj.bias"]))
    last = ("Transformer/encoder_norm", "head") if big else ("vit/layernorm", "classifier")
    gain, offset = ("scale", "bias") if big else ("gamma:0", "beta:0")
    put("encoder.ln.weight", (f"{last[0]}/{gain}", own["encoder.ln.weight"]))
    put("encoder.ln.bias", (f"{last[0]}/{offset}", own["encoder.ln.bias"]))
    put("heads.head.weight", (f"{last[1]}/kernel{end}", own["heads.head.weight"].t()))
    put("heads.head.bias", (f"{last[1]}/bias{end}", own["heads.head.bias"]))
    for number in range(3):
        ours = f"encoder.layers.encoder_layer_{number}"
        theirs = f"Transformer/encoderblock_{number}" if big else f"vit/encoder/layer_._{number}"
        names = (
            {"ln_1": "LayerNorm_0", "ln_2": "LayerNorm_2", "mlp.0": "MlpBlock_3/Dense_0", "mlp.3": "MlpBlock_3/Dense_1"}
            if big
            else {
                "ln_1": "layernorm_before",
                "ln_2": "layernorm_after",
                "mlp.0": "intermediate/dense",
                "mlp.3": "output/dense",
            }
        )
        for layer, name in names.items():
            weight, bias = own[f"{ours}.{layer}.weight"], own[f"{ours}.{layer}.bias"]
            leaves = (f"kernel{end}", f"bias{end}") if weight.dim() == 2 else (gain, offset)
            put(f"{ours}.{layer}.weight", (f"{theirs}/{name}/{leaves[0]}", weight.t() if weight.dim() == 2 else weight))
            put(f"{ours}.{layer}.bias", (f"{theirs}/{name}/{leaves[1]}", bias))
        inside = f"{theirs}/MultiHeadDotProductAttention_1" if big else f"{theirs}/attention/attention"
        joined = own[f"{ours}.self_attention.in_proj_weight"].chunk(3)
        apart = [value.t().reshape(width, heads, -1) if big else value.t() for value in joined]
        parts = list(zip(("query", "key", "value"), apart, strict=True))
        put(f"{ours}.self_attention.in_proj_weight", *((f"{inside}/{name}/kernel{end}", value) for name, value in parts))
        flat = own[f"{ours}.self_attention.in_proj_bias"].chunk(3)
        biases = [value.reshape(heads, -1) if big else value for value in flat]
        named = zip(("query", "key", "value"), biases, strict=True)
        put(f"{ours}.self_attention.in_proj_bias", *((f"{inside}/{name}/bias{end}", value) for name, value in named))
        out = own[f"{ours}.self_attention.out_proj.weight"].t()
        place = f"{inside}/out" if big else f"{theirs}/attention/output/dense"
        put(
            f"{ours}.self_attention.out_proj.weight",
            (f"{place}/kernel{end}", out.reshape(heads, -1, width) if big else out),
        )
        put(f"{ours}.self_attention.out_proj.bias", (f"{place}/bias{end}", own[f"{ours}.self_attention.out_proj.bias"]))
    mapping = map_by_name(dict(sorted(src.items())) if big else src, own, "test")
    assert {key: set(part.sources()) for key, part in mapping.items()} == expected


def test_square_kernels_of_the_side_that_is_right_are_not_turned() -> None:
    own = {"a.weight": torch.zeros(4, 3, 7, 7), "b.weight": torch.zeros(3, 3, 3, 3)}
    src = {"a/kernel": torch.zeros(7, 7, 3, 4), "b/kernel": torch.zeros(3, 3, 3, 3)}
    mapping = map_by_name(src, own, "test")
    assert {key: str(part) for key, part in mapping.items()} == {
        "a.weight": "permute(a/kernel, [3, 2, 0, 1])",
        "b.weight": "permute(b/kernel, [3, 2, 0, 1])",
    }
