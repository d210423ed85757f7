"""attention(q, k, v) = softmax(q k^T) v: fused kernels of attention are recorded as the products that they compute.

torch chooses a fused kernel by device and dtype, in which a graph sees nothing. The switch that forbids them is one of the
whole process, and other threads would compute otherwise meanwhile; so the recorder writes their calls out.
"""

from collections.abc import Callable
from typing import Any

import torch

_MATH = torch.ops.aten._scaled_dot_product_attention_math.default

_NAMES = ("flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention")


def fused_kernels() -> dict[Any, Callable[..., Any]]:
    """Return, for each fused kernel that this release of torch has, the function that computes it by products."""
    kernels = [getattr(torch.ops.aten, f"_scaled_dot_product_{name}", None) for name in _NAMES]
    return {kernel.default: _by_products(kernel.default) for kernel in kernels if kernel is not None}


def _by_products(kernel: Any) -> Callable[..., Any]:
    def compute(*args: Any, **kwargs: Any) -> Any:
        given = dict(zip((argument.name for argument in kernel._schema.arguments), args, strict=False)) | kwargs
        query, key, value = given["query"], given["key"], given["value"]
        # As its parts: called from a mode, the operation itself would be recorded.
        output, _ = _MATH.decompose(
            query,
            key,
            value,
            given.get("attn_mask", given.get("attn_bias")),
            given.get("dropout_p", 0.0),
            given.get("is_causal", False),
            scale=given.get("scale"),
            enable_gqa=query.shape[-3] != key.shape[-3],
        )
        # What backward would need is not computed: any tensor stands in for it.
        others = kernel._schema.returns[1:]
        return output, *(output if str(part.type) == "Tensor" else 0 for part in others)

    return compute
