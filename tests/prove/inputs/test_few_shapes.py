"""Large models run on few and narrow inputs, which show what the many show."""

from collections.abc import Callable, Iterator
from contextlib import suppress

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxmap.model.inputs import as_inputs
from fxmap.model.kernels import DoubleKernels
from fxmap.model.recall import active, recalling
from fxmap.prove.audits.audit import Auditor
from fxmap.prove.inputs.few_shapes import few_shapes
from fxmap.prove.inputs.samples import Sampler
from fxmap.prove.inputs.shapes import Choices, shapes
from fxmap.prove.state.changed import scaled, scaled_in_place


def _cut(axis: int) -> nn.Module:
    class Cut(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.narrow(axis, 0, min(x.shape[axis], 200)).sum((2, 3))

    return Cut()


def _refuted(changed: nn.Module) -> str:
    both = (as_inputs(torch.zeros(1, 3, 64, 64, dtype=torch.float64)),) * 2
    auditor = Auditor(lambda i: i.args[0].sum((2, 3)), lambda i: i.call(changed), 1e-9)
    return auditor.audit(Sampler.of(both, ({}, {})), [200], thrifty=True).refuted


def test_what_is_cut_along_either_axis_of_a_map_shows_on_a_narrow_one() -> None:
    assert [_refuted(_cut(axis)).split(" ")[0] for axis in (2, 3)] == ["1x3x257x17", "1x3x17x257"]


def test_few_shapes_are_smaller_than_a_third_of_the_many() -> None:
    def numbers(plan: Callable[..., Iterator[Choices]]) -> int:
        chosen = [choices[0] for _, choices in plan([torch.zeros(1, 3, 64, 64)], ["numbers"], [16, 256])]
        return sum((shape.batch or 1) * shape.spatial[0] * shape.spatial[1] for shape in chosen)

    assert numbers(few_shapes) < numbers(shapes) / 3


def test_ids_without_a_mask_are_drawn_in_a_large_batch_a_shorter_and_a_longer_text() -> None:
    chosen = [choices[0] for _, choices in few_shapes([torch.zeros(1, 16, dtype=torch.long)], ["indices"], [64])]

    assert [(shape.batch, dict(shape.sizes)) for shape in chosen] == [(13, {16: 5}), (1, {16: 5}), (1, {16: 67})]


def test_a_model_that_refuses_inputs_is_asked_first_and_spares_the_other_one() -> None:
    calls: list[int] = []

    def src(inputs: object) -> Tensor:
        calls.append(1)
        return torch.ones(1)

    def dst(inputs: object) -> Tensor:
        raise ValueError("another size")

    both = (as_inputs(torch.zeros(1, 3, dtype=torch.float64)),) * 2
    auditor = Auditor(src, dst, 1e-9)
    assert [auditor.compare(both) for _ in range(5)] == [None] * 5
    assert len(calls) == 1


def test_scaled_weights_are_copies() -> None:
    weight = torch.randn(1000, dtype=torch.float64)
    before = weight.clone()
    changed = scaled({"a": weight}, ["a"], 2.0**-20)
    assert torch.equal(changed["a"], before * 2.0**-20)
    changed["a"].zero_()
    assert torch.equal(weight, before)


def test_large_weights_are_scaled_in_their_own_memory_and_are_the_same_numbers_afterwards() -> None:
    large, small = torch.randn(600, 600, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    own = {"large": large, "tied": large, "small": small, "other": small}
    before = {path: tensor.clone() for path, tensor in own.items()}
    for factor in (4.0, 2.0**-20):
        with suppress(KeyboardInterrupt), scaled_in_place(own, ["large", "tied", "small"], factor) as changed:
            assert changed["large"] is changed["tied"] is large
            assert torch.equal(large, before["large"] * factor)
            assert torch.equal(changed["small"], before["small"] * factor)
            assert changed["other"] is small
            assert torch.equal(small, before["small"])
            raise KeyboardInterrupt
        assert all(torch.equal(own[path], tensor) for path, tensor in before.items())


def test_products_are_recalled_after_weights_were_scaled_in_place() -> None:
    weight, x = torch.randn(600, 600, dtype=torch.float64), torch.randn(2, 600, dtype=torch.float64)
    with recalling([weight]), DoubleKernels():
        recall, product = active(), F.linear(x, weight)
        with scaled_in_place({"a": weight}, ["a"], 4.0):
            pass
        assert torch.equal(F.linear(x, weight), product)
        assert recall is not None
        assert (recall.hits, recall.is_unwritten) == (1, True)
