"""Deferred tensors: the numbers of a tensor are made when an operation reads them, and dropped when it is done.

Idea: an operation needs the weights of its own layer alone. So a weight is a recipe: a function that makes some of its rows.
What is computed from weights alone (views, joins, casts, multiples) is a recipe again; a product of a value with a weight
runs over blocks of rows, so that not even one large weight is in memory at once; everything else is given the whole tensor,
for as long as it runs. Code that gets deferred tensors in place of weights, a user's own `forward` or a captured graph,
needs no change, and autograd keeps the recipe in place of the numbers.

>>> import torch.nn.functional as F
>>> made = []
>>> def rows(start, stop):
...     made.append((start, stop))
...     return torch.ones(stop - start, 3)
>>> weight = Deferred(Recipe((2, 3), torch.float32, rows))
>>> joined = torch.cat((2 * weight, weight))
>>> type(joined).__name__, made
('Deferred', [])
>>> F.linear(torch.ones(1, 3), joined), made
(tensor([[6., 6., 3., 3.]]), [(0, 2), (0, 2)])

Cost: that of the operation, and of making the numbers for every operation that reads them. Memory: a block of rows for
products and lookups, else one tensor.
Source: tensors without memory, as in Paszke et al., PyTorch, 2019 (`__torch_dispatch__`); recomputation in place of memory,
Griewank and Walther, Algorithm 799: revolve, 2000, doi:10.1145/347837.347846.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from fxmap.model.dispatch import DispatchMode
from fxmap.model.memory import written
from fxmap.model.tensors import tensors_of
from fxmap.run import recipe
from fxmap.run.recipe import Recipe, gathered, joined, product, reduced_by_blocks, taken, transposed

_aten = torch.ops.aten


class Deferred(Tensor):
    """A tensor that has a recipe in place of numbers."""

    recipe: Recipe

    @staticmethod
    def __new__(cls, recipe: Recipe) -> "Deferred":
        """Make a tensor of the recipe's shape and dtype on the CPU, without memory."""
        made: Deferred = torch.Tensor._make_wrapper_subclass(
            cls, recipe.shape, dtype=recipe.dtype, device=torch.device("cpu")
        )
        made.recipe = recipe
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        """Show the shape, without making any number."""
        return f"Deferred({list(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run an operation that reads deferred tensors, or defer it as well."""
        kwargs = kwargs or {}
        if func._schema.is_mutable and any(isinstance(part, Deferred) for part in written(func, args, kwargs)):
            raise RuntimeError(f"{func} would write to a weight, which is made anew whenever it is read")
        handler = _HANDLERS.get(func)
        result = NotImplemented if handler is None else handler(func, *args, **kwargs)
        if result is NotImplemented:
            result = _deferred(func, args, kwargs)
        if result is NotImplemented:
            result = func(*tree_map(numbers, args), **tree_map(numbers, kwargs))
            # A view would keep the whole weight.
            result = result.clone() if func.is_view and isinstance(result, Tensor) else result
        return result


def numbers(value: Any) -> Any:
    """Return a deferred tensor with its numbers; any other value is returned unchanged."""
    # Views were taken of a tensor that says it is contiguous.
    return value.recipe.all().contiguous() if isinstance(value, Deferred) else value


# Numbers of a tensor of which the mean size is taken.
_SAMPLED = 1 << 16


def mean_size(value: Tensor) -> float:
    """Return the mean of the absolute values of a tensor; of a large one, of some, which tell how large it is.

    Of a deferred one, they are the first rows of its parts.

    >>> mean_size(Deferred(Recipe((4, 2), torch.float32, lambda start, stop: -torch.ones(stop - start, 2))))
    1.0
    """
    if not isinstance(value, Deferred):
        value = value.detach()
        if value.numel() > _SAMPLED and value.is_contiguous():
            value = value.view(-1)[:: value.numel() // _SAMPLED]
        return absolute_sum(value) / max(value.numel(), 1)
    parts = (value.recipe if value.recipe.swapped is None else value.recipe.swapped).joined()
    sizes = [float(part.rows(*next(part.blocks())).detach().abs().mean()) for part in parts]
    counts = [part.shape[0] for part in parts]
    return sum(size * count for size, count in zip(sizes, counts, strict=True)) / sum(counts)


def absolute_sum(value: Tensor) -> float:
    """Return the sum of the absolute values of a tensor, without a tensor of these.

    >>> absolute_sum(Deferred(Recipe((4, 2), torch.float32, lambda start, stop: -torch.ones(stop - start, 2))))
    8.0
    """
    if not isinstance(value, Deferred):
        return float(torch.linalg.vector_norm(value, 1))
    # Not by `abs`: what it makes of a tensor without numbers would be asked of torch, which imports its compiler for it.
    made = value.recipe if value.recipe.swapped is None else value.recipe.swapped
    return float(reduced_by_blocks(made, lambda rows: torch.linalg.vector_norm(rows.detach(), 1)).sum())


class Sparing(DispatchMode):
    """Inside its `with` block, gradients of large weights are deferred as well: they are products of two small values."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Defer a large product of values, or a table of gradients."""
        handler = _GRADIENTS.get(func)
        result = NotImplemented if handler is None else handler(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {})) if result is NotImplemented else result


def _deferred(func: Any, args: Any, kwargs: Any) -> Any:
    """Defer an operation whose operands are all deferred, and which returns one tensor; meta tensors tell its shape."""
    found = tensors_of([args, kwargs])
    if func in _FACTORIES:
        return func(*tree_map(_hollow, args), **tree_map(_hollow, kwargs))
    operands = [part for part in found if isinstance(part, Deferred)]
    if func._schema.is_mutable or torch.Tag.nondeterministic_seeded in func.tags or len(operands) < len(found):
        return NotImplemented
    try:
        made = func(*tree_map(_bare, args), **tree_map(_bare, kwargs))
    except (NotImplementedError, RuntimeError):
        return NotImplemented  # what it returns depends on the numbers
    if isinstance(made, Tensor) and "device" in kwargs and torch.device(kwargs["device"] or "cpu").type == "meta":
        return made
    if func in _VIEWS and made.shape == operands[0].shape:
        return Deferred(operands[0].recipe)
    if not isinstance(made, Tensor) or not made.dim() or made.numel() < min(part.numel() for part in operands):
        return NotImplemented  # less than what it is made of, such as a mean
    shape, dtype = tuple(made.shape), made.dtype
    if _is_pointwise(func) and all(part.recipe.swapped is not None and tuple(part.shape) == shape for part in operands):
        return func(*tree_map(_turned, args), **tree_map(_turned, kwargs)).t()
    if _by_rows(func, args, shape, operands):

        def rows(start: int, stop: int) -> Tensor:
            # No operation by rows has tensors inside of lists.
            some = [_rows_of(part, start, stop) for part in args]
            result: Tensor = func(*some, **{name: _rows_of(part, start, stop) for name, part in kwargs.items()})
            return result

        return Deferred(Recipe(shape, dtype, rows, any(part.recipe.whole for part in operands)))

    def cut(start: int, stop: int) -> Tensor:
        result: Tensor = func(*tree_map(numbers, args), **tree_map(numbers, kwargs))
        return result[start:stop]

    return Deferred(Recipe(shape, dtype, cut, whole=True))


def _by_rows(func: Any, args: Any, shape: tuple[int, ...], operands: Sequence[Deferred]) -> bool:
    """Whether rows of a result are made of the same rows of its operands."""
    if _is_pointwise(func):
        return all(tuple(part.shape) == shape for part in operands)
    if func is _aten.transpose.int:
        return 0 not in (axis % len(shape) for axis in args[1:3])
    return func is _aten.permute.default and args[1][0] % len(shape) == 0


def _is_pointwise(func: Any) -> bool:
    return func in _COPIES or torch.Tag.pointwise in func.tags


def _rows_of(value: Any, start: int, stop: int) -> Any:
    return value.recipe.rows(start, stop) if isinstance(value, Deferred) else value


def _turned(value: Any) -> Any:
    return value.t() if isinstance(value, Tensor) else value


def _hollow(value: Any) -> Any:
    return torch.zeros((), dtype=value.dtype).expand(value.shape) if isinstance(value, Tensor) else value


def _bare(value: Any) -> Any:
    return torch.empty(value.shape, dtype=value.dtype, device="meta") if isinstance(value, Tensor) else value


# -- operations that are deferred in a way of their own --------------------------------------------------------------------


def _same(func: Any, one: Deferred, *_: Any, **__: Any) -> Any:
    return Deferred(one.recipe)


def _swap(func: Any, one: Deferred, *axes: int) -> Any:
    if one.dim() != 2 or (axes and axes[0] % 2 == axes[1] % 2):
        return NotImplemented
    return Deferred(transposed(one.recipe))


def _slice(func: Any, one: Deferred, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Any:
    first, last, step = slice(start, end, step).indices(one.shape[dim])
    if step == 1 and (first, last) == (0, one.shape[dim]):
        return Deferred(one.recipe)
    if step != 1 or dim % one.dim() or one.recipe.swapped is not None or last <= first:
        return NotImplemented
    return Deferred(one.recipe.cut(first, last))


def _parts(func: Any, one: Deferred, sizes: Any, dim: int = 0) -> Any:
    """Return the parts of a split along the first axis."""
    extent = one.shape[dim]
    if isinstance(sizes, int):
        sizes = [min(sizes, extent - start) for start in range(0, extent, max(1, sizes))]
    made, first = [], 0
    for size in sizes:
        made.append(_aten.slice.Tensor(one, dim, first, first + size))
        first += size
    return made


def _join(func: Any, tensors: Sequence[Tensor], dim: int = 0) -> Any:
    parts = [part.recipe for part in tensors if isinstance(part, Deferred)]
    if dim % tensors[0].dim() or len({part.dtype for part in tensors}) > 1 or len(parts) < len(tensors):
        return NotImplemented
    return Deferred(joined(parts))


def _index(func: Any, one: Tensor, indices: Sequence[Tensor | None]) -> Any:
    """Take rows by number."""
    index = numbers(indices[0]) if len(indices) == 1 else None
    if not isinstance(one, Deferred) or index is None or index.dtype in (torch.bool, torch.uint8):
        return NotImplemented
    return Deferred(taken(one.recipe, index)) if index.dim() == 1 and index.numel() else NotImplemented


# -- operations that run over blocks ---------------------------------------------------------------------------------------


def _embedding(func: Any, weight: Tensor, index: Tensor, *_: Any, **__: Any) -> Any:
    if not isinstance(weight, Deferred):
        return NotImplemented
    index, count = numbers(index), weight.shape[0]
    if index.dtype not in (torch.int64, torch.int32):  # as torch does: others would be taken for masks, or cut
        raise RuntimeError(f"Expected tensor for argument #1 'indices' to have scalar type Long or Int, not {index.dtype}")
    if index.numel() and not (int(index.min()) >= 0 and int(index.max()) < count):
        raise IndexError("index out of range in self")
    return gathered(weight.recipe, index.reshape(-1)).reshape(*index.shape, *weight.shape[1:])


def _mm(func: Any, one: Tensor, other: Tensor) -> Any:
    if isinstance(one, Deferred):
        # (a b)' = b' a'
        return NotImplemented if isinstance(other, Deferred) else product(other.t(), transposed(one.recipe)).t()
    assert isinstance(other, Deferred)
    return product(one, other.recipe)


def _times(func: Any, one: Any, other: Any) -> Any:
    """Multiply by a number of Python."""
    if isinstance(one, Deferred) and isinstance(other, int | float) and one.is_floating_point():
        return Deferred(one.recipe.times(float(other)))
    return NotImplemented


def _addmm(func: Any, bias: Tensor, one: Tensor, other: Tensor, *, beta: float = 1, alpha: float = 1) -> Any:
    if isinstance(one, Deferred) and isinstance(other, Deferred):
        return NotImplemented
    made = one @ other
    made = made if alpha == 1 else made * alpha
    return made + (bias if beta == 1 else bias * beta)


def _bmm(func: Any, one: Tensor, other: Tensor) -> Any:
    found = next(part.recipe for part in (one, other) if isinstance(part, Deferred))
    blocks = list(found.blocks())
    if len(blocks) < 2:
        return NotImplemented
    made = torch.empty(one.shape[0], one.shape[1], other.shape[2], dtype=one.dtype)
    for a, b in blocks:
        made[a:b] = _cut(one, a, b) @ _cut(other, a, b)
    return made


def _cut(value: Tensor, start: int, stop: int) -> Tensor:
    return value.recipe.rows(start, stop) if isinstance(value, Deferred) else value[start:stop]


def _equal(func: Any, one: Tensor, other: Tensor) -> Any:
    if one.shape != other.shape or not one.dim():
        return NotImplemented if one.shape == other.shape else False
    both = [part.recipe for part in (one, other) if isinstance(part, Deferred)]
    if len(both) == 2:
        names = [made.identity for made in both]
        if both[0] is both[1] or (names[0] is not None and names[0] == names[1]):
            return True
        if all(made.swapped is not None for made in both):
            return torch.equal(one.t(), other.t())
    if any(made.whole for made in both):
        return NotImplemented
    return all(torch.equal(_cut(one, a, b), _cut(other, a, b)) for a, b in both[0].blocks())


def _sum(func: Any, one: Deferred, *, dtype: torch.dtype | None = None) -> Any:
    made = one.recipe if one.recipe.swapped is None else one.recipe.swapped
    return reduced_by_blocks(made, lambda rows: rows.sum(dtype=dtype)).sum()


def _mean(func: Any, one: Deferred, *, dtype: torch.dtype | None = None) -> Any:
    return _sum(func, one, dtype=dtype) / one.numel() if one.numel() else NotImplemented


def _whole_truth(reduced: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    def handler(func: Any, one: Deferred) -> Any:
        return reduced(reduced_by_blocks(one.recipe, reduced))

    return handler


# -- gradients -------------------------------------------------------------------------------------------------------------


def _product(one: Tensor, other: Tensor) -> Any:
    if one.shape[0] * other.shape[1] <= recipe.BLOCK or isinstance(one, Deferred) or isinstance(other, Deferred):
        return NotImplemented
    return Deferred(recipe.product_of(one, other))


def _table(grad: Tensor, index: Tensor, count: int, padding: int, by_frequency: bool) -> Any:
    if count * grad.shape[-1] <= recipe.BLOCK or by_frequency:
        return NotImplemented
    return Deferred(recipe.table_of(index.reshape(-1), grad.reshape(-1, grad.shape[-1]), count, padding))


_HANDLERS: dict[Any, Callable[..., Any]] = {
    _aten.detach.default: _same,
    _aten.alias.default: _same,
    _aten.lift_fresh.default: _same,
    _aten.t.default: _swap,
    _aten.transpose.int: _swap,
    _aten.slice.Tensor: _slice,
    _aten.split.Tensor: _parts,
    _aten.split_with_sizes.default: _parts,
    _aten.cat.default: _join,
    _aten.index.Tensor: _index,
    _aten.embedding.default: _embedding,
    _aten.mm.default: _mm,
    _aten.mul.Tensor: _times,
    _aten.addmm.default: _addmm,
    _aten.bmm.default: _bmm,
    _aten.equal.default: _equal,
    _aten.sum.default: _sum,
    _aten.mean.default: _mean,
    _aten.all.default: _whole_truth(torch.all),
    _aten.any.default: _whole_truth(torch.any),
}
_GRADIENTS: dict[Any, Callable[..., Any]] = {
    _aten.mm.default: _product,
    _aten.embedding_dense_backward.default: _table,
}
# What makes a tensor of the shape and dtype of another one, which may be written to.
_FACTORIES = {
    getattr(_aten, name).default
    for name in (
        *("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like"),
        *("new_zeros", "new_ones", "new_empty", "new_full", "new_empty_strided"),
    )
}
# Views that keep the order of numbers: of the same shape, they are the same tensor.
_VIEWS = {
    *(_aten.squeeze.default, _aten.squeeze.dim, _aten.squeeze.dims, _aten.view.default, _aten._unsafe_view.default),
    *(_aten.expand.default, _aten.reshape.default),
}
# Of a number each, though torch does not tag them so.
_COPIES = {_aten._to_copy.default, _aten.clone.default}
