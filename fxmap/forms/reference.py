"""The form of reference modules: a float weight beside how it is quantized, as convert_to_reference_fx makes them."""

from torch import fx, nn

from fxmap.errors import QuantizationError
from fxmap.expressions.base import Source
from fxmap.forms import eager, fx_mode, stages
from fxmap.forms.conversion import Conversion, Converted, Part, Seen
from fxmap.forms.eager_modules import float_base, int8
from fxmap.forms.fill import Filled, FillRequest
from fxmap.forms.form import Findings, Form, Twin
from fxmap.forms.stages import Stage
from fxmap.forms.store import Store


def _recognise(found: Findings) -> Stage | None:
    return stages.REFERENCE if REFERENCE in found.forms else None


def _is_reference(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.ao.nn.quantized.reference.")


def _convert(part: Part) -> Converted:
    """Convert a reference module to its float class."""
    module = part.module
    if not hasattr(module, "weight_qscheme"):
        raise QuantizationError(f"{part.path}: {type(module).__qualname__} has no float twin in fxmap")
    twin = float_base(module)
    quantized = module.get_quantized_weight()
    scheme = part.scheme(quantized) if quantized.is_quantized else None
    weight = part.key("weight")
    stores: dict[str, Store] = {}
    if scheme is not None:
        beside = Source(f"{weight}_scale"), Source(f"{weight}_zero_point")
        stores[weight] = Store(weight, beside=beside, rounds=scheme)
    for name, kind in (("weight_scale", "scales"), ("weight_zero_point", "zero_points"), ("weight_axis", "")):
        twin._buffers.pop(name, None)
        if scheme is not None and kind:
            stores[part.key(name)] = Store(weight, scheme=scheme, part=kind)
    return int8(part, twin, stores, seen=Seen.REFERENCE)


def _fill(twin: Twin, request: FillRequest) -> Filled:
    return fx_mode.fill(twin, request) if isinstance(request.dst, fx.GraphModule) else eager.fill(twin, request)


REFERENCE = Form(
    "reference modules of torch.ao",
    _recognise,
    packages=("torch.ao.quantization",),
    conversions=lambda: (Conversion(_is_reference, _convert),),
    fill=_fill,
)
