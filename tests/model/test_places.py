"""A replica's tensors are put where its modules look for them."""

import torch
from torch import nn

from fxmap.model.places import Places
from fxmap.model.replica import unchanged


def test_a_shared_module_has_the_tensors_of_its_last_path_until_they_are_put_back() -> None:
    shared = nn.Linear(2, 2)
    net = nn.ModuleDict({"one": shared, "other": shared})
    before, ones = shared.weight, torch.ones(2, 2)
    with unchanged(net):
        assert Places.of(net, {}).take({"one.weight": ones, "other.weight": ones})
        assert shared.weight is ones
    assert shared.weight is before


def test_a_tensor_without_a_place_is_not_taken_and_none_is_moved() -> None:
    net = nn.Linear(2, 2)
    before = net.weight
    assert not Places.of(net, {}).take({"weight": torch.ones(2, 2), "scale": torch.ones(1)})
    assert net.weight is before


def test_a_module_of_torchscript_keeps_its_own() -> None:
    net = torch.jit.script(nn.Linear(2, 2))
    places = Places.of(nn.Sequential(net), {})
    assert places.scripted
    assert not places.take({"0.weight": torch.ones(2, 2)})


def test_objects_beside_the_modules_hold_the_values_too_and_get_their_own_back() -> None:
    net = nn.BatchNorm1d(2)
    elsewhere, own = [net.weight, net.running_mean], net.weight.detach().clone()
    places = Places.of(net, dict(net.named_parameters()))
    assert len(places.loose) == 3
    with places.holding({"weight": torch.full((2,), 7.0, requires_grad=True), "scale": own}):
        assert elsewhere[0] is not None
        assert elsewhere[0].tolist() == [7.0, 7.0]
        assert net.weight.requires_grad
    assert torch.equal(net.weight, own)
