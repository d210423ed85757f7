"""Input channels in another order: joins the other way round, and maps that are flattened the other way."""

import pytest
import torch
from torch import Tensor, nn

import fxmap
from fxmap.mapping.key_mapping import KeyMapping
from fxmap.matching.search.channels import order_of_channels
from fxmap.testing.planted import randomised

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A skip connection and a head over a flattened map; `turned` joins and flattens the other way."""

    def __init__(self, turned: bool) -> None:
        super().__init__()
        self.turned = turned
        self.one, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.both, self.head = nn.Conv2d(10, 5, 3, padding=1), nn.Linear(5 * 16, 7)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != 8:  # keeps symbolic tracing out
            raise ValueError("of another size")
        skip = self.one(x).tanh()
        x = self.two(skip).tanh()
        x = self.both(torch.cat((skip, x) if self.turned else (x, skip), 1))
        x = torch.nn.functional.avg_pool2d(x, 2)
        return self.head((x.permute(0, 2, 3, 1) if self.turned else x).flatten(1))


@pytest.mark.parametrize("turned", [False, True])
def test_joins_and_flattened_maps_the_other_way_round(turned: bool) -> None:
    src, dst = randomised(Net(turned), 1).eval(), randomised(Net(not turned), 2).eval()
    mapping = fxmap.auto_map(src, dst, example_inputs=X)
    assert not mapping.missing
    made = mapping.apply(src.state_dict())
    joined = src.both.weight.split((4, 6) if turned else (6, 4), 1)
    assert torch.equal(made["both.weight"], torch.cat((joined[1], joined[0]), 1))
    maps = src.head.weight.unflatten(1, (4, 4, 5) if turned else (5, 4, 4))
    assert torch.equal(made["head.weight"], (maps.permute(0, 3, 1, 2) if turned else maps.permute(0, 2, 3, 1)).flatten(1))
    assert mapping.proof.ok, str(mapping)
    assert KeyMapping.from_json(mapping.to_json()) == mapping
    dst.load_state_dict(made)
    y = torch.randn(3, 3, 8, 8)
    assert torch.allclose(src(y), dst(y), atol=1e-5)


def test_dead_channels_follow_their_neighbours() -> None:
    one, other = torch.randn(3, 7), torch.randn(3, 7)
    one[1] = other[0] = other[2] = 0.0
    assert order_of_channels(torch.cat((one, other)), torch.cat((other, one))) == (3, 4, 5, 0, 1, 2)
    assert order_of_channels(one, one) is None
    assert order_of_channels(one, other) is None


class Dense(nn.Module):
    """Layers that join what they make to what they read, behind it or before it, and norms over the join."""

    def __init__(self, *, before: bool) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(n) for n in (3, 5))
        self.convs = nn.ModuleList([nn.Conv2d(3, 2, 3, padding=1), nn.Conv2d(5, 2, 3, padding=1)])
        self.depthwise, self.head, self.before = nn.Conv2d(7, 7, 3, groups=7), nn.Conv2d(7, 4, 1), before

    def forward(self, x: Tensor) -> Tensor:
        for norm, conv in zip(self.norms, self.convs, strict=True):
            made = conv(torch.sigmoid(norm(x)))
            x = torch.cat([made, x] if self.before else [x, made], 1)
        mapped: Tensor = self.head(torch.tanh(self.depthwise(x)))
        return mapped


def test_norms_and_depthwise_layers_behind_a_join_in_another_order_have_their_numbers_in_that_order() -> None:
    src, dst = (randomised(Dense(before=before), int(before)).eval() for before in (False, True))
    mapping = fxmap.auto_map(src, dst, example_inputs=torch.randn(2, 3, 6, 6))
    assert mapping.ok
    assert torch.equal(mapping.apply(src.state_dict())["norms.1.bias"], src.state_dict()["norms.1.bias"][[3, 4, 0, 1, 2]])
