"""The quantized forms whose models are graphs, against the reference recipe."""

from collections.abc import Iterator

import pytest
import torch

import fxmap
from fxmap.mapping.proof import Status
from fxmap.testing import compare
from fxmap.testing.compare import same_value
from fxmap.testing.recipes import forms, models, state_dicts
from fxmap.testing.recipes.forms import Form

# The others differ in nothing that the small network of `test_graph` does not have.
FX = [
    Form.FX_INT8,
    *(
        pytest.param(form, marks=pytest.mark.slow)
        for form in (Form.FX_FUSED, Form.FX_PREPARED, Form.FX_QAT, Form.FX_REFERENCE)
    ),
]
MODELS = [
    "resnet18",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("shufflenet_v2_x0_5", "mobilenet_v2", "mobilenet_v3_large", "googlenet", "inception_v3")
    ),
]


@pytest.fixture(autouse=True)
def _engine() -> Iterator[None]:
    # That of the recipes: what is packed for another engine is rounded otherwise.
    with forms.engine("fbgemm"):
        yield


def _source(name: str = "resnet18") -> torch.nn.Module:
    return models.randomised_float(name, seed=1)


def _destination(form: Form, name: str = "resnet18") -> torch.nn.Module:
    data = () if form.endswith("-qat") else models.images(4)
    return forms.build_form(name, form, models.randomised_float(name, seed=2).state_dict(), data)


def _differing(dst: torch.nn.Module, reference: torch.nn.Module) -> list[str]:
    state, expected = dst.state_dict(), reference.state_dict()
    assert state.keys() == expected.keys()
    return [key for key in expected if not same_value(state[key], expected[key])]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("form", FX)
def test_fx_form_equals_the_reference(name: str, form: Form) -> None:
    batches = models.images(3)
    observed = form.is_static_int8 or form.endswith("-prepared")
    reference = forms.reference_form(_source(name), name, form, batches if observed else ())
    dst = _destination(form, name)

    mapping = fxmap.transfer(_source(name), dst, calibration=batches if observed else None)

    assert mapping.proof.ok, str(mapping)
    assert set(mapping) == state_dicts.sourced_keys(dst, form)
    assert _differing(dst, reference) == []
    assert torch.equal(compare.output(dst, batches[0]), compare.output(reference, batches[0]))
    assert {mapping.status(key) for key in mapping.knowledge.ranges} <= {Status.CALIBRATED}
