"""Keys of real pairs of models matched by shapes, names and order, from the data of the benchmark."""

import pytest
import torch
from torch import Tensor

import fxmap
from benchmarks.names.data import NamedPair, by_name, read
from benchmarks.names.measure import OURS, measure
from fxmap.matching.keys.mapper import map_by_name

PAIRS = {pair.id: pair for pair in read()}


@pytest.mark.parametrize(
    "name",
    [
        "torchvision:resnext50_32x4d->timm:resnext50_32x4d",
        "pytorchcv:mobilenetv3_large_w1->timm:mobilenetv3_large_100",
        "torchvision:vgg11->timm:vgg11",
        "torchvision:mobilenet_v3_small->timm:mobilenetv3_small_100",
        "timm:vit->transformers:vit",
        "transformers:bert-encoder->torch.nn:TransformerEncoder",
        "torch.nn:TransformerEncoder->transformers:bert-encoder",
        "timm:deit->transformers:deit",
    ],
)
def test_real_pairs_are_right(name: str) -> None:
    row = measure(PAIRS[name], OURS)
    assert (row.refused, row.wrong) == ("", 0)
    assert row.right > 0
    # What is left open may be a bias that the source does not have.
    assert row.left <= 1


def _state(tree: list[tuple[str, list[int], str]]) -> dict[str, Tensor]:
    return {
        key: torch.empty(shape, dtype=getattr(torch, kind.removeprefix("torch.")), device="meta")
        for key, shape, kind in tree
    }


def _mapped(pair: NamedPair) -> fxmap.KeyMapping:
    return map_by_name(_state(pair.src), _state(pair.dst), "test")


def test_shuffled_names_stay_open_with_their_candidates() -> None:
    pair = PAIRS["torchvision:resnet18->syn:resnet18-renamed-deep-shuffled"]
    mapping = _mapped(pair)
    assert len(mapping.missing) > len(mapping) > 0
    reasons = [mapping.knowledge.reasons[key] for key in mapping.missing]
    assert all(reason.startswith("open: no clear choice among ") for reason in reasons)
    assert "map them by hand" in str(mapping)


def test_a_folded_norm_is_not_guessed() -> None:
    mapping = _mapped(PAIRS["torchvision:resnet18->syn:resnet18-bnfolded"])
    assert "must be folded" in mapping.knowledge.reasons["conv1.weight"]
    assert {"conv1.weight", "conv1.bias", "layer1.0.conv1.weight"} <= set(mapping.missing)


def test_modules_that_order_tears_apart_stay_open() -> None:
    """In one library the projection comes before the three convolutions of a block, in the other behind them."""
    row = measure(PAIRS["torchvision:regnet_x_400mf->timm:regnetx_004_tv"], OURS)
    assert row.wrong <= 0.1 * row.right


@pytest.mark.parametrize("name", ["timm:vit->transformers:vit", "transformers:deit->timm:deit"])
def test_a_source_that_is_sorted_by_name_is_right_or_open(name: str) -> None:
    pair = by_name(PAIRS[name])
    keys = [key for key, _, _ in pair.src]
    assert keys == sorted(keys)
    row = measure(pair, OURS)
    assert row.wrong == 0
    assert row.right >= 75


def test_a_sorted_pair_has_the_same_relations() -> None:
    for pair in PAIRS.values():
        moved = by_name(pair)
        for before, after in zip(pair.relations, moved.relations, strict=True):
            if isinstance(before, int) and before is not False:
                assert pair.src[before][0] == moved.src[after][0]
