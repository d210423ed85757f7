"""Properties over random networks: the planted mapping comes back, and what is proven is right."""

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fxmap
from fxmap.expressions.arithmetic import FoldedBias, FoldedWeight
from fxmap.expressions.base import Source
from fxmap.mapping.proof import Status
from fxmap.testing import planted_tokens as token_networks
from fxmap.testing.planted import planted_pair

SETTINGS = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def _planted(key: str, layers: dict[str, str]) -> str:
    layer, _, name = key.rpartition(".")
    if layer.endswith("_norm"):
        return f"{layers[layer.removesuffix('_norm')]}_norm.{name}"
    return f"{layers[layer]}.{name}"


@given(seed=st.integers(0, 10**6))
@SETTINGS
def test_renamed_reordered_nested_network_maps_back(seed: int) -> None:
    src, dst, layers = planted_pair(seed)
    mapping = fxmap.auto_map(src, dst)
    for key in dst.state_dict():
        assert mapping[key] == Source(_planted(key, layers)) or mapping.status(key) is Status.TIED
    _check_function(src, dst, mapping)


@given(seed=st.integers(0, 10**6))
@SETTINGS
def test_folded_batch_norm_maps_back(seed: int) -> None:
    src, dst, layers = planted_pair(seed, folded=True)
    mapping = fxmap.auto_map(src, dst)
    for key, expression in mapping.items():
        first = next(iter(expression.sources()))
        if isinstance(expression, FoldedWeight):
            assert expression.weight == Source(_planted(key, layers)) or mapping.status(key) is Status.TIED
        elif isinstance(expression, FoldedBias):
            owner = _planted(key, layers).removesuffix(".bias")
            assert first == f"{owner}_norm.running_mean" or mapping.status(key) is Status.TIED
        else:
            assert expression == Source(_planted(key, layers)) or mapping.status(key) is Status.TIED
    _check_function(src, dst, mapping)


@given(seed=st.integers(0, 10**6))
@SETTINGS
def test_neutral_norm_for_a_folded_source(seed: int) -> None:
    dst, src, _ = planted_pair(seed, folded=True)
    mapping = fxmap.auto_map(src, dst)
    _check_function(src, dst, mapping)


def _check_function(src: torch.nn.Module, dst: torch.nn.Module, mapping: fxmap.KeyMapping) -> None:
    """Check that what is proven is right for inputs that the proof never saw."""
    assert mapping.proof.ok, str(mapping)
    assert not mapping.missing
    mapping.load_into(dst, src.state_dict())
    x = torch.randn(3, 3, 19, 23)
    with torch.no_grad():
        expected, actual = src.double()(x.double()), dst.double()(x.double())
    assert torch.allclose(expected, actual, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))


@given(seed=st.integers(0, 10**6), styles=st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)))
@SETTINGS
def test_split_joined_transposed_shared_and_tied_weights_map_back(seed: int, styles: tuple[int, int]) -> None:
    kinds = token_networks.specification(seed)
    values = token_networks.weights(kinds, seed)
    src = token_networks.Tokens(kinds, token_networks.Style(styles[0]), values).eval()
    wanted = token_networks.Tokens(kinds, token_networks.Style(styles[1]), values).eval()
    other = token_networks.weights(kinds, seed + 1)
    dst = token_networks.Tokens(kinds, token_networks.Style(styles[1]), other).eval()
    mapping = fxmap.auto_map(src, dst, example_inputs=torch.randint(0, token_networks.VALUES, (2, 6)))
    assert mapping.proof.ok, str(mapping)
    made = mapping.apply(src.state_dict())
    for key, value in wanted.state_dict().items():
        assert torch.equal(made[key], value), f"{key} is {mapping[key]}"
