"""The form of optimum-quanto, which fxmap refuses: its weights have other keys, and hooks quantize its activations."""

from torch import nn

from fxmap.errors import QuantizationError
from fxmap.forms.form import Form


def _refuse(model: nn.Module) -> None:
    """Refuse layers of optimum-quanto.

    Raises:
        QuantizationError: there is one; the message says what to do.
    """
    for path, module in model.named_modules():
        if any(kind.__module__.startswith("optimum.quanto.") for kind in type(module).__mro__):
            raise QuantizationError(
                f"{path or 'the model'} is a {type(module).__name__} of optimum-quanto, which is neither filled nor read: "
                "transfer into the float model, and quantize and freeze that; as a source, give the float model"
            )


QUANTO = Form("optimum-quanto", lambda found: None, refuse=_refuse)
