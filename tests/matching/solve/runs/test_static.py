"""Experts that run on the tokens which are routed to them, and experts that all run on all tokens."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxmap
from fxmap.capture.recorded import RECORDED
from fxmap.matching.sides import sides
from fxmap.matching.solve.runs.static import static
from fxmap.model.inputs import Given
from fxmap.testing.planted import randomised


class Sparse(nn.Module):
    """Each expert on its own tokens."""

    def __init__(self, mixing: bool = False) -> None:
        super().__init__()
        self.router, self.mixing = nn.Linear(4, 3, bias=False), mixing
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 4)) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        shape, x = x.shape, x.reshape(-1, 4)
        shares, chosen = self.router(x).softmax(-1).topk(2, -1)
        masks = F.one_hot(chosen, 3).permute(2, 1, 0)
        made = torch.zeros_like(x)
        for mask, expert in zip(masks, self.experts, strict=True):
            place, row = torch.where(mask)
            read = x[None, row].reshape(-1, 4)
            y = expert(read - read.mean(0) if self.mixing else read) * shares[row, place, None]
            made.index_add_(0, row, y)
        return made.reshape(shape)


class Dense(nn.Module):
    """All experts on all tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.wide, self.deep = (nn.Parameter(torch.ones(s)) for s in ((4, 3), (3, 4, 5), (3, 5, 4)))
        self.one, self.other = (nn.Parameter(torch.ones(3, 1, size)) for size in (5, 4))

    def forward(self, x: Tensor) -> Tensor:
        shape, x = x.shape, x.reshape(-1, 4)
        shares = (x @ self.router).softmax(-1)
        best, chosen = shares.topk(2, -1)
        shares = torch.zeros_like(shares).scatter(1, chosen, best)
        y = torch.tanh(x @ self.wide + self.one) @ self.deep + self.other
        return torch.einsum("ne,end->nd", shares, y).reshape(shape)


def test_experts_on_their_own_tokens_are_those_that_run_on_all() -> None:
    src, dst = randomised(Sparse(), 0), Dense()
    state = src.state_dict()
    mapping = fxmap.auto_map(src, dst, example_inputs=torch.randn(2, 7, 4))
    made = mapping.apply(state)
    every = {name: torch.stack([state[f"experts.{i}.{name}"] for i in range(3)]) for name in ("0.weight", "2.weight")}
    biases = {name: torch.stack([state[f"experts.{i}.{name}"] for i in range(3)]) for name in ("0.bias", "2.bias")}
    torch.testing.assert_close(made["router"], state["router.weight"].t())
    torch.testing.assert_close(made["wide"], every["0.weight"].mT)
    torch.testing.assert_close(made["deep"], every["2.weight"].mT)
    torch.testing.assert_close(made["one"], biases["0.bias"][:, None])
    torch.testing.assert_close(made["other"], biases["2.bias"][:, None])


def test_what_compares_the_tokens_of_one_expert_keeps_their_selection() -> None:
    x = torch.randn(7, 4)
    for mixing in (False, True):
        src, dst = randomised(Sparse(mixing), 0), Sparse()
        network = sides(RECORDED, src, dst, Given.of(x, None, None, None, models=(src, dst)), "")[0].main
        assert (static(network) is network) is mixing
