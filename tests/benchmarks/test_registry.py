import torch
from torch import nn

from benchmarks.registry import GROUPS, PAIRS
from benchmarks.registry.made import folded, renamed
from benchmarks.registry.truth import evaluate, truth_of


def block() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1))


def test_every_known_pair_has_a_truth_map_and_no_unseen_one_has() -> None:
    assert len(GROUPS["known"]) == 230
    assert len(GROUPS["unseen"]) >= 40
    assert len(PAIRS) == len(GROUPS["known"]) + len(GROUPS["unseen"])
    assert all(truth_of(pair) is not None for pair in GROUPS["known"])
    assert not any(truth_of(pair) for pair in GROUPS["unseen"])


def test_counts_are_those_of_the_collection() -> None:
    known = GROUPS["known"].values()
    assert sum(pair.same_function for pair in known) == 226
    assert sum(pair.params <= 26 and pair.same_function for pair in known) == 200
    assert sum(pair.hard for pair in known) == 113
    assert all(pair.note for pair in known if not pair.same_function)


def test_operations_of_the_truth_maps() -> None:
    state = {"w": torch.arange(6.0).reshape(2, 3), "v": torch.tensor([1.0, 2.0])}
    same = torch.equal
    assert same(evaluate(["t", "w"], state), state["w"].T)
    assert same(evaluate(["cat", 0, "v", ["zeros", [1]]], state), torch.tensor([1.0, 2.0, 0.0]))
    assert same(evaluate(["chunk", "w", 1, 3, 1], state), state["w"][:, 1:2])
    assert same(evaluate(["idx", "w", 1, [2, 0]], state), state["w"][:, [2, 0]])
    assert same(evaluate(["view", "w", [3, 2]], state), state["w"].view(3, 2))
    assert same(evaluate(["add", "v", ["adds", "v", 1]], state), torch.tensor([3.0, 5.0]))
    assert same(evaluate(["flipchunks", "w", 0, 2], state), state["w"].flip(0))


def test_folded_operations_are_those_of_a_batch_norm() -> None:
    torch.manual_seed(0)
    model = block().eval()
    model[1].running_mean.normal_()
    model[1].running_var.uniform_(0.5, 1.5)
    state = model.state_dict()
    layer = nn.Conv2d(3, 4, 3)
    weight = ["foldw", "0.weight", "1.weight", "1.running_var", 1e-5]
    bias = ["foldb", None, "1.weight", "1.bias", "1.running_mean", "1.running_var", 1e-5]
    layer.load_state_dict({"weight": evaluate(weight, state), "bias": evaluate(bias, state)})
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(layer(x), model[:2](x))


def test_renamed_models_compute_the_same_under_other_names() -> None:
    torch.manual_seed(0)
    model = block().eval()
    for shuffled in (False, True):
        other = renamed(lambda: model, seed=3, shuffled=shuffled)()
        x = torch.randn(2, 3, 8, 8)
        assert torch.equal(other(x), model(x))
        assert not other.state_dict().keys() & model.state_dict().keys()
    again = renamed(block, seed=3, shuffled=True)()
    assert list(again.state_dict()) == list(other.state_dict())


def test_folding_takes_batch_norms_away() -> None:
    keys = folded(block)().state_dict().keys()
    assert keys == {"0.weight", "0.bias", "3.weight", "3.bias"}
