"""A mapping as a Python function that needs torch alone."""

HELPERS = {
    "fold": """
def fold(layer, weight, bias, mean, var, eps, gamma, beta):
    from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights
    gamma = torch.ones_like(mean) if gamma is None else gamma
    beta = torch.zeros_like(mean) if beta is None else beta
    if layer == "linear":
        folded = fuse_linear_bn_weights(weight, bias, mean, var, eps, gamma, beta)
    else:
        transposed = layer == "conv_transpose" and weight.dim() > 2
        folded = fuse_conv_bn_weights(weight, bias, mean, var, eps, gamma, beta, transposed)
    return folded[0].detach(), folded[1].detach()

""",
    "row_scaled": """
def row_scaled(value, scale):
    return value * scale.reshape(-1, *[1] * (value.dim() - 1))

""",
    "centred": """
def centred(kernel, shape):
    margins = [(whole - part) // 2 for whole, part in zip(shape, kernel.shape[2:])]
    return torch.nn.functional.pad(kernel, [margin for margin in reversed(margins) for _ in range(2)])

""",
    "identity_kernel": """
def identity_kernel(shape, groups):
    kernel = torch.zeros(shape)
    for row in range(min(shape[0], shape[1] * groups)):
        kernel[(row, row % shape[1], *[extent // 2 for extent in shape[2:]])] = 1.0
    return kernel

""",
    "pack": """
def pack(kind, parts):
    if kind == "linear":
        return torch.ops.quantized.linear_prepack(*parts)
    inputs, hidden = (torch.ops.quantized.linear_prepack(*pair) for pair in zip(parts[:2], parts[2:]))
    return torch.ops.quantized.make_quantized_cell_params_dynamic(inputs, hidden, parts[2], parts[3], True)

""",
    "unpack": """
def unpack(value):
    if isinstance(value, tuple):
        return value
    state = value.__getstate__()[0]
    if isinstance(state[0], torch.Tensor):
        return tuple(state[:2])
    (inputs, bias_ih), (hidden, bias_hh) = (part.__getstate__()[0][:2] for part in state[4])
    return inputs, hidden, bias_ih, bias_hh

""",
    "quantize": """
def quantize(weight, scheme):
    from torch.ao.nn.quantized.modules.utils import _quantize_weight
    from torch.ao.quantization.observer import MinMaxObserver, PerChannelMinMaxObserver
    options = dict(dtype=getattr(torch, scheme["dtype"]), qscheme=getattr(torch, scheme["qscheme"]),
                   quant_min=scheme["quant_min"], quant_max=scheme["quant_max"], eps=scheme["eps"])
    if scheme["qscheme"].startswith("per_channel"):
        observer = PerChannelMinMaxObserver(ch_axis=scheme["axis"], **options)
    else:
        observer = MinMaxObserver(**options)
    observer(weight.detach().float())
    return _quantize_weight(weight.detach().float(), observer)

""",
    "assemble": """
def assemble(weight, scales, zero_points, scheme):
    dtype = getattr(torch, scheme["dtype"])
    scales, zero_points = scales.double(), zero_points.long()
    if scheme["qscheme"].startswith("per_channel"):
        if weight.is_floating_point():
            return torch.quantize_per_channel(weight, scales, zero_points, scheme["axis"], dtype)
        return torch._make_per_channel_quantized_tensor(weight, scales, zero_points, scheme["axis"])
    if weight.is_floating_point():
        return torch.quantize_per_tensor(weight, scales.item(), int(zero_points.item()), dtype)
    return torch._make_per_tensor_quantized_tensor(weight, scales.item(), int(zero_points.item()))

""",
    "requantize": """
def requantize(weight, scheme):
    if not weight.is_quantized:
        return quantize(weight.dequantize() if hasattr(weight, "qdata") else weight, scheme)
    per_channel = weight.qscheme() not in (torch.per_tensor_affine, torch.per_tensor_symmetric)
    same = weight.dtype is getattr(torch, scheme["dtype"]) and per_channel == scheme["qscheme"].startswith("per_channel")
    same = same and not (per_channel and weight.q_per_channel_axis() != scheme["axis"])
    floats = weight.qscheme() is torch.per_channel_affine_float_qparams, scheme["qscheme"].endswith("float_qparams")
    if any(floats):
        return weight if same and all(floats) else quantize(weight.dequantize(), scheme)
    integers = weight.int_repr()
    same = same and scheme["quant_min"] <= int(integers.min()) and int(integers.max()) <= scheme["quant_max"]
    zero_points = weight.q_per_channel_zero_points() if per_channel else torch.tensor(weight.q_zero_point())
    same = same and not (scheme["qscheme"].endswith("symmetric") and bool(zero_points.any()))
    return weight if same else quantize(weight.dequantize(), scheme)

""",
    "quantized_part": """
def quantized_part(value, part):
    if part == "integers":
        return value.int_repr()
    if value.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        return torch.tensor([value.q_scale()]) if part == "scales" else torch.tensor([value.q_zero_point()])
    return value.q_per_channel_scales().float() if part == "scales" else value.q_per_channel_zero_points()

""",
    "dequantized_parts": """
def dequantized_parts(value, scale, zero_point, axis):
    shape = [-1 if a == axis else 1 for a in range(value.dim())] if axis >= 0 else []
    return (value - zero_point.reshape(shape)).to(scale.dtype) * scale.reshape(shape)

""",
}
