"""Changes of a module's code that make another function of it, by kind: what a proof must notice."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

Changes = Iterator[tuple[str, Callable[[nn.Module], nn.Module | None]]]


def _setting(**values: Any) -> Callable[[nn.Module], None]:
    def change(module: nn.Module) -> None:
        for name, value in values.items():
            setattr(module, name, value)

    return change


def replacing(make: Callable[[], nn.Module]) -> Callable[[nn.Module], nn.Module]:
    """Return a change that puts another module in the place of one."""
    return lambda _: make()


_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def _strides(module: nn.Module) -> Changes:
    if isinstance(module, _CONVOLUTIONS):
        stride = tuple(2 if step == 1 else 1 for step in module.stride)
        yield f"stride {stride}", _setting(stride=stride)
    if isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
        yield "stride 1", _setting(stride=1)


def _paddings(module: nn.Module) -> Changes:
    if isinstance(module, _CONVOLUTIONS) and max(module.kernel_size) > 1:
        padding = _numbers(module.padding)
        more = tuple(p + 1 for p in padding)
        yield f"padding {more}", _setting(padding=more)
        if max(padding) > 0:
            yield "circular padding", lambda m: _rebuilt(m, padding_mode="circular")
            yield "padding and stride", _setting(padding=more, stride=tuple(s + 1 for s in module.stride))
    if isinstance(module, nn.MaxPool2d | nn.AvgPool2d) and module.padding == 1:
        yield "no padding", _setting(padding=0)


def _numbers(padding: str | tuple[int, ...]) -> tuple[int, ...]:
    if isinstance(padding, str):
        raise TypeError(f"padding {padding!r}: only numbers can be changed")
    return padding


def _rebuilt(module: nn.Module, **options: Any) -> nn.Module:
    assert isinstance(module, _CONVOLUTIONS)
    make: Callable[..., nn.Module] = type(module)
    twin = make(
        module.in_channels, module.out_channels, module.kernel_size, module.stride, module.padding, module.dilation,
        module.groups, module.bias is not None, **options,
    )  # fmt: skip
    return twin.to(module.weight.dtype)


def _dilations(module: nn.Module) -> Changes:
    if isinstance(module, _CONVOLUTIONS) and max(module.kernel_size) > 1 and max(module.dilation) == 1:
        padding = tuple(p + (k - 1) // 2 for p, k in zip(_numbers(module.padding), module.kernel_size, strict=True))
        yield "dilation 2", _setting(dilation=(2,) * len(module.kernel_size), padding=padding)


def _epsilons(module: nn.Module) -> Changes:
    for name in ("eps", "variance_epsilon"):
        eps = getattr(module, name, None)
        if isinstance(eps, float) and 0 < eps < 1e-2:
            yield f"eps {eps * 10:g}", _setting(**{name: eps * 10})
            yield f"eps {eps * 1.01:g}", _setting(**{name: eps * 1.01})


_ACTIVATIONS = {
    "ReLU",
    "ReLU6",
    "GELU",
    "SiLU",
    "Hardswish",
    "LeakyReLU",
    "ELU",
    "Softplus",
    "Sigmoid",
    "Tanh",
    "Hardsigmoid",
}


def is_activation(module: nn.Module) -> bool:
    """Tell whether a module is an activation function without parameters."""
    name = type(module).__name__
    return (name in _ACTIVATIONS or name.endswith("Activation")) and not list(module.parameters())


def _activations(module: nn.Module) -> Changes:
    if not is_activation(module):
        return
    for make in (
        nn.ReLU6, nn.ReLU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Mish, nn.Hardsigmoid,
        lambda: nn.GELU("tanh"), lambda: nn.LeakyReLU(1e-3), lambda: nn.Hardtanh(-1e3, 1e3), lambda: nn.Hardtanh(0, 50),
        lambda: nn.Softplus(5.0), lambda: nn.ELU(0.9),
    ):  # fmt: skip
        if str(make()) != str(module):
            yield f"{make()} for {module}", replacing(make)


def _insertions(module: nn.Module) -> Changes:
    """Put something behind a layer that most values do not notice."""
    if isinstance(module, (*_CONVOLUTIONS, nn.Linear)) or is_activation(module):
        yield "clamped to 12", _hooking(lambda out: out.clamp(-12, 12))
        yield "clamped to 5", _hooking(lambda out: nn.functional.hardtanh(out, -5, 5))
        yield "threshold of -4", _hooking(lambda out: nn.functional.threshold(out, -4.0, -4.0))


def _hooking(function: Callable[[Tensor], Tensor]) -> Callable[[nn.Module], None]:
    def change(module: nn.Module) -> None:
        module.register_forward_hook(lambda _module, _args, out: function(out))

    return change


def _groups(module: nn.Module) -> Changes:
    if isinstance(module, nn.GroupNorm):
        yield "half as many groups", _setting(num_groups=module.num_groups // 2)
        yield "twice as many groups", _setting(num_groups=module.num_groups * 2)
    if isinstance(module, nn.Conv2d) and 1 < module.groups < module.in_channels:
        conv = module
        yield "channels dealt out to groups in turn", lambda _: _Dealt(conv)


class _Dealt(nn.Module):
    """A grouped convolution whose groups take every g-th channel instead of neighbours."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.groups = conv.groups
        self.options = conv.stride, _numbers(conv.padding), conv.dilation
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, x: Tensor) -> Tensor:
        """Convolve channels in another order."""
        x = torch.unflatten(x, 1, (-1, self.groups)).transpose(1, 2).flatten(1, 2)
        stride, padding, dilation = self.options
        return nn.functional.conv2d(x, self.weight, self.bias, stride, padding, dilation, self.groups)


def _pools(module: nn.Module) -> Changes:
    if isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
        yield "ceil_mode", _setting(ceil_mode=not module.ceil_mode)
    if isinstance(module, nn.AvgPool2d) and module.padding:
        yield "count_include_pad", _setting(count_include_pad=False)
    if isinstance(module, nn.MaxPool2d) and module.padding in (0, 1):
        yield "average", replacing(lambda: nn.AvgPool2d(module.kernel_size, module.stride, module.padding))
    if isinstance(module, nn.Upsample):
        yield "align_corners", _setting(align_corners=True)
        yield "nearest", _setting(mode="nearest", align_corners=None)


def _attentions(module: nn.Module) -> Changes:
    counts = ("num_heads", "num_attention_heads", "num_key_value_groups")
    heads = next((name for name in counts if hasattr(module, name)), "")
    size = next((name for name in ("head_dim", "attention_head_size") if hasattr(module, name)), "")
    if heads and size and heads != "num_key_value_groups" and getattr(module, heads) % 2 == 0:
        yield "half as many heads", _setting(**{heads: getattr(module, heads) // 2, size: getattr(module, size) * 2})
    if size and heads == "num_key_value_groups":
        yield "half as many heads", _setting(**{size: getattr(module, size) * 2})
    for name in ("scale", "scaling"):
        if isinstance(getattr(module, name, None), float):
            yield f"{name} times 1.1", _setting(**{name: getattr(module, name) * 1.1})
    if getattr(module, "is_causal", None) is True:
        yield "not causal", _setting(is_causal=False)


CHANGES: dict[str, Callable[[nn.Module], Changes]] = {
    "stride": _strides,
    "padding": _paddings,
    "dilation": _dilations,
    "eps": _epsilons,
    "activation": _activations,
    "operation inserted": _insertions,
    "groups": _groups,
    "pool": _pools,
    "heads and scale": _attentions,
}
