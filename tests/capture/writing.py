"""Code that writes in place, in the forms in which models do: what the tests of functional recordings run."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Code = Callable[[Tensor, "Net"], Tensor]


class Net(nn.Module):
    """Two layers with code between them, which may use two buffers and a parameter."""

    table: Tensor
    count: Tensor

    def __init__(self, code: Code) -> None:
        super().__init__()
        self.a, self.h, self.code = nn.Linear(8, 8), nn.Linear(8, 4), code
        self.register_buffer("table", torch.zeros(6, 8))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.scale = nn.Parameter(torch.ones(8))
        self.cache = torch.zeros(6, 8)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.h(self.code(self.a(x), self))
        return out


X = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))


FORMS: dict[str, Code] = {}


def form(code: Code) -> Code:
    FORMS[code.__name__] = code
    return code


@form
def a_slice_of_zeros(y: Tensor, _: Net) -> Tensor:
    z = torch.zeros_like(y)
    z[:, 1:] = F.relu(y[:, :-1])
    return y + z


@form
def slices_in_two_axes(y: Tensor, _: Net) -> Tensor:
    z = torch.zeros_like(y)
    z[:, 1:4, 2:6] = y[:, :3, :4].tanh()
    return y + z


@form
def every_second_step(y: Tensor, _: Net) -> Tensor:
    z = y.new_zeros(y.shape)
    z[:, ::2], z[:, 1::2] = y[:, 1::2], y[:, ::2].exp()
    return z


@form
def one_channel_plus_one(y: Tensor, _: Net) -> Tensor:
    y[..., 0] += 1
    return y


@form
def several_channels_scaled(y: Tensor, _: Net) -> Tensor:
    y[..., 2:5] *= y[..., :1].sigmoid()
    return y


@form
def a_mask_set_to_a_number(y: Tensor, _: Net) -> Tensor:
    y = y.clone()
    y[y < 0] = 0.5
    return y


@form
def a_mask_set_to_values(y: Tensor, _: Net) -> Tensor:
    out = torch.zeros_like(y)
    mask = torch.arange(6) > 2
    out[:, mask] = y[:, mask].relu()
    return out


@form
def copied_into_a_buffer(y: Tensor, net: Net) -> Tensor:
    net.table.copy_(y.mean(0))
    return y + net.table


@form
def copied_into_rows_of_a_buffer(y: Tensor, net: Net) -> Tensor:
    net.table[:3].copy_(y[0, 3:])
    return y * net.table


@form
def scattered(y: Tensor, _: Net) -> Tensor:
    index = torch.arange(6).flip(0)[None, :, None].expand(2, 6, 8)
    return torch.zeros_like(y).scatter_(1, index, y.sin())


@form
def scattered_onto_a_view(y: Tensor, _: Net) -> Tensor:
    index = torch.tensor([0, 0, 1])[None, :, None].expand(2, 3, 8)
    y[:, 2:].scatter_add_(1, index, y[:, :3].exp())
    return y


@form
def put_by_index(y: Tensor, _: Net) -> Tensor:
    out = torch.zeros_like(y)
    out.index_put_((torch.tensor([1, 0]), torch.tensor([2, 3])), y[:, 5].cos())
    return out + y


@form
def put_by_index_and_added(y: Tensor, _: Net) -> Tensor:
    y.index_put_((torch.tensor([0, 0]),), y[1:].relu(), accumulate=True)
    return y


@form
def rows_by_number(y: Tensor, _: Net) -> Tensor:
    y[:, torch.tensor([4, 1])] = y[:, :2].sigmoid()
    return y


@form
def index_added(y: Tensor, _: Net) -> Tensor:
    out = torch.zeros_like(y)
    out.index_add_(1, torch.tensor([0, 2, 2, 5, 1, 0]), y.relu())
    return out


@form
def index_copied(y: Tensor, _: Net) -> Tensor:
    return torch.ones_like(y).index_copy_(1, torch.tensor([3, 5]), y[:, :2])


@form
def index_filled_on_a_view(y: Tensor, _: Net) -> Tensor:
    y[0].index_fill_(0, torch.tensor([1, 2]), 0.25)
    return y


@form
def masked_on_a_view(y: Tensor, _: Net) -> Tensor:
    y[:, 0].masked_fill_(y[:, 0] > 0, 2.0)
    return y


@form
def masked_scattered(y: Tensor, _: Net) -> Tensor:
    z = torch.zeros_like(y)
    z[:, :3].masked_scatter_(torch.ones(2, 3, 8, dtype=torch.bool), y[:, 3:].contiguous())
    return z


@form
def added_into_a_given_tensor(y: Tensor, _: Net) -> Tensor:
    out = torch.empty_like(y)
    torch.add(y, y.relu(), out=out)
    return out


@form
def multiplied_into_a_slice(y: Tensor, _: Net) -> Tensor:
    out = torch.zeros_like(y)
    torch.mul(y[:, :3], y[:, 3:], out=out[:, 2:5])
    return out


@form
def a_list_filled_in_a_loop(y: Tensor, _: Net) -> Tensor:
    out = torch.empty_like(y)
    for step in range(y.shape[1]):
        out[:, step] = y[:, step].tanh() if step % 2 else y[:, step]
    return out


@form
def steps_that_read_the_last_one(y: Tensor, net: Net) -> Tensor:
    for step in range(1, y.shape[1]):
        y[:, step] += net.a(y[:, step - 1]).relu()
    return y


@form
def views_written_one_after_the_other(y: Tensor, _: Net) -> Tensor:
    left, right = y.chunk(2, dim=-1)
    left.mul_(2)
    right.add_(left.exp())
    return y


@form
def a_base_written_while_a_view_is_read(y: Tensor, _: Net) -> Tensor:
    first = y[:, 0]
    y.mul_(3)
    return y + first[:, None]


@form
def a_transposed_view(y: Tensor, _: Net) -> Tensor:
    y.transpose(1, 2)[:, 3] = 1.5
    y.view(2, -1)[:, 5:9].neg_()
    return y


@form
def a_diagonal(y: Tensor, _: Net) -> Tensor:
    scores = y @ y.transpose(1, 2)
    scores.diagonal(dim1=1, dim2=2).fill_(0.0)
    torch.diagonal(scores[:, :3, 3:], dim1=1, dim2=2).copy_(y[:, :3, 0])
    return scores @ y


@form
def a_diagonal_of_every_matrix(y: Tensor, _: Net) -> Tensor:
    scores = y @ y.transpose(1, 2)
    for matrix in (scores[0], scores[1]):
        matrix.fill_diagonal_(0.5)
    return scores @ y


@form
def strides(y: Tensor, _: Net) -> Tensor:
    z = torch.zeros(2, 6, 8, dtype=y.dtype)
    z.as_strided((2, 3, 4), (48, 8, 1), 8).copy_(y[:, :3, :4])
    return z + y


@form
def unbound_parts(y: Tensor, _: Net) -> Tensor:
    for number, part in enumerate(y.unbind(1)):
        part.add_(number)
    return y


@form
def without_gradient_by_data(y: Tensor, _: Net) -> Tensor:
    y.data[:, 2:] = y.data[:, 2:].clamp(max=0.5)
    return y


@form
def a_value_and_what_it_was(y: Tensor, _: Net) -> Tensor:
    before = y.clone()
    y += 1
    y[:, 0].zero_()
    return before * y


@form
def a_counter(y: Tensor, net: Net) -> Tensor:
    net.count += 1
    return y * net.count


@form
def a_running_mean(y: Tensor, net: Net) -> Tensor:
    net.table.mul_(0.9).add_(y.mean(0), alpha=0.1)
    net.table[0].clamp_(min=0.0)
    return y - net.table


@form
def state_that_nothing_reads(y: Tensor, net: Net) -> Tensor:
    net.table[1:] = y[0, 1:]
    net.count.add_(1)
    return y.relu()


@form
def a_cache_that_is_no_buffer(y: Tensor, net: Net) -> Tensor:
    net.cache = net.cache.to(y.dtype)
    net.cache[2:4] = y[1, :2].cos()
    return y + net.cache


@form
def a_parameter(y: Tensor, net: Net) -> Tensor:
    net.scale.data[1:3].clamp_(min=0.5)
    return y * net.scale


@form
def a_swap(y: Tensor, _: Net) -> Tensor:
    y[:, 0], y[:, 1] = y[:, 1].clone(), y[:, 0].clone()
    return y


@form
def lists_of_tensors(y: Tensor, _: Net) -> Tensor:
    ys = [y[:, :3], y[:, 3:]]
    torch._foreach_mul_(ys, 2.0)
    return torch.cat(ys[::-1], 1)


@form
def a_rectangle_of_a_map(y: Tensor, _: Net) -> Tensor:
    padded = torch.full((len(y), 8, 10), 0.5, dtype=y.dtype)
    padded[:, 1:-1, 1:-1] = y
    return F.avg_pool1d(padded, 3, stride=1)[:, :6]
