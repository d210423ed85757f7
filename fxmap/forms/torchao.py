"""Models of torchao: weights that are tensor subclasses, and layers that were prepared for QAT."""

from torch import nn

from fxmap.errors import QuantizationError
from fxmap.expressions.functions import is_wrapped
from fxmap.expressions.wrapped import plain


def unwrap_tensors(twin: nn.Module) -> list[str]:
    """Put float parameters in the place of the wrapped ones of a twin; return their paths."""
    found: list[str] = []
    for path, module in twin.named_modules():
        for name, parameter in module._parameters.items():
            if is_wrapped(parameter):
                assert parameter is not None
                module._parameters[name] = nn.Parameter(plain(parameter.detach()), requires_grad=False)
                found.append(f"{path}.{name}" if path else name)
    return found


def refuse_foreign(model: nn.Module) -> None:
    """Refuse layers of optimum-quanto, which keep their weights under other keys, and quantize what they compute by hooks.

    Raises:
        QuantizationError: there is one; the message says what to do.
    """
    for path, module in model.named_modules():
        if any(kind.__module__.startswith("optimum.quanto.") for kind in type(module).__mro__):
            raise QuantizationError(
                f"{path or 'the model'} is a {type(module).__name__} of optimum-quanto, which is neither filled nor read: "
                "transfer into the float model, and quantize and freeze that; as a source, give the float model"
            )


def is_fake_quantized(module: nn.Module) -> bool:
    """Whether a module is a layer that torchao prepared for quantization-aware training."""
    return type(module).__module__.startswith("torchao.quantization.qat") and isinstance(module, nn.Linear | nn.Embedding)
