"""Search: exchanges among layers that read the same, and what it does where nothing fits."""

import torch
from torch import Tensor, nn

import fxmap
from fxmap.testing.planted import randomised

WIDTH = 6
X = torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    """Three projections of one input, told apart by what is made of them; `spelled` hides the structure."""

    def __init__(self, spelled: bool) -> None:
        super().__init__()
        self.spelled = spelled
        self.a, self.b, self.c = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.a(x), self.b(x), self.c(x)
        if self.spelled:
            scores = torch.einsum("bqd,bkd->bqk", q, k)
            weights = (scores - scores.amax(-1, keepdim=True)).exp()
            return x + torch.einsum("bqk,bkd->bqd", weights / weights.sum(-1, keepdim=True), v)
        return x + (q @ k.transpose(1, 2)).softmax(-1) @ v


class Net(nn.Module):
    def __init__(self, spelled: bool, depth: int = 3, head: int = 4) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(spelled) for _ in range(depth))
        self.head = nn.Linear(WIDTH, head)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def test_what_becomes_of_a_value_tells_q_k_and_v_apart() -> None:
    src, dst = randomised(Net(False), 1).eval(), randomised(Net(True), 2).eval()
    mapping = fxmap.auto_map(src, dst, example_inputs=X)
    # Scores are symmetric in q and k but for the softmax: a wrong choice shows two operations later.
    made = mapping.apply(src.state_dict())
    assert all(torch.equal(made[key], value) for key, value in src.state_dict().items())


def test_another_head_and_another_depth_leave_the_rest_mapped() -> None:
    src, dst = randomised(Net(False, depth=2), 1).eval(), randomised(Net(True, depth=3, head=7), 2).eval()
    mapping = fxmap.auto_map(src, dst, example_inputs=X)
    made = mapping.apply(src.state_dict())
    for key in ("blocks.0.a.weight", "blocks.0.b.weight", "blocks.0.c.bias", "blocks.1.a.weight"):
        assert torch.equal(made[key], src.state_dict()[key])
    assert mapping.mismatched == ["head.weight", "head.bias"] or not any(key.startswith("head") for key in mapping)
    assert not mapping.proof.ok


def test_the_users_models_are_not_changed() -> None:
    src, dst = randomised(Net(False), 1).train(), randomised(Net(True), 2).train()
    before = [{key: value.clone() for key, value in model.state_dict().items()} for model in (src, dst)]
    state = torch.get_rng_state()
    fxmap.auto_map(src, dst, example_inputs=X)
    assert torch.equal(torch.get_rng_state(), state)
    assert src.training
    assert dst.training
    for model, old in zip((src, dst), before, strict=True):
        assert all(torch.equal(value, old[key]) for key, value in model.state_dict().items())


def test_a_mapping_by_hand_is_proven_where_values_must_align_the_models() -> None:
    src, dst = randomised(Net(False), 1).eval(), randomised(Net(True), 2).eval()
    right = {key: key for key in dst.state_dict()}
    proofs = fxmap.auto_map(src, dst, example_inputs=X).proof, fxmap.verify(src, dst, right, example_inputs=X)
    assert proofs[0] is not None
    assert proofs[0].statuses == proofs[1].statuses
    # The softmax does not see the bias of what is k.
    assert set(proofs[1].statuses.values()) == {fxmap.Status.PROVEN, fxmap.Status.INERT}
