"""The pairs of the unseen benchmark compute one function where the destination has the planted weights."""

import pytest
import torch

from benchmarks.unseen.networks import Unseen
from benchmarks.unseen.spellings import KINDS, LENGTH, WIDTH, Spelling


@pytest.mark.parametrize("seed", range(20))
def test_the_planted_weights_make_both_networks_equal(seed: int) -> None:
    pair = Unseen.drawn(seed)
    src, dst = pair.src.double(), pair.dst.double()
    dst.load_state_dict(pair.truth(src.state_dict()))
    x = pair.inputs.double()
    torch.testing.assert_close(dst(x), src(x))


@pytest.mark.parametrize("spelling", [one for kind in KINDS for one in kind.spellings if not one.source_only])
def test_the_weights_of_a_spelling_are_those_of_its_plain_form(spelling: type[Spelling]) -> None:
    layer = spelling()
    state = layer.state_dict()
    again = spelling.own(spelling.plain(state))
    assert again.keys() == state.keys()
    for key, value in again.items():
        torch.testing.assert_close(value, state[key])
    assert layer(torch.zeros(1, LENGTH, WIDTH)).shape == (1, LENGTH, WIDTH)
