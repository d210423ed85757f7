"""The forms of torchao: weights that are tensor subclasses, and layers that were prepared for QAT."""

from torch import nn

from fxmap.expressions.functions import is_wrapped
from fxmap.expressions.wrapped import plain
from fxmap.forms import stages
from fxmap.forms.conversion import Conversion, Converted, Part
from fxmap.forms.eager_modules import float_base
from fxmap.forms.form import Findings, Form
from fxmap.forms.stages import Stage


def _unwrap(twin: nn.Module) -> list[str]:
    """Replace the wrapped parameters of a twin by float ones; return their paths."""
    found: list[str] = []
    for path, module in twin.named_modules():
        for name, parameter in module._parameters.items():
            if is_wrapped(parameter):
                assert parameter is not None
                module._parameters[name] = nn.Parameter(plain(parameter.detach()), requires_grad=False)
                found.append(f"{path}.{name}" if path else name)
    return found


def _recognise_tensors(found: Findings) -> Stage | None:
    return stages.WRAPPED if TORCHAO_TENSORS in found.forms else None


def _is_fake_quantized(module: nn.Module) -> bool:
    """Whether a module is a layer that torchao prepared for quantization-aware training."""
    return type(module).__module__.startswith("torchao.quantization.qat") and isinstance(module, nn.Linear | nn.Embedding)


def _convert(part: Part) -> Converted:
    return Converted(float_base(part.module))


def _recognise_qat(found: Findings) -> Stage | None:
    return stages.WRAPPED_QAT if TORCHAO_QAT in found.forms else None


TORCHAO_TENSORS = Form("tensors of torchao", _recognise_tensors, unwrap=_unwrap)


TORCHAO_QAT = Form(
    "QAT of torchao",
    _recognise_qat,
    packages=("torchao.quantization.qat",),
    conversions=lambda: (Conversion(_is_fake_quantized, _convert),),
)
