"""Lazy layers: their weights have no shape until they run for the first time, so that nothing can be mapped to them."""

from itertools import chain

from torch import nn
from torch.nn.parameter import is_lazy

from fxmap.errors import CaptureError, shorten


def refuse_uninitialised(**models: object) -> None:
    """Raise an error if a model has layers that were never run; the names say what the models are.

    Raises:
        CaptureError: a model has such layers; the message names their tensors.

    >>> refuse_uninitialised(source=nn.Linear(2, 2))
    >>> refuse_uninitialised(source=nn.LazyLinear(2))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    fxmap.errors.CaptureError: weight, bias: the source was never run, and these tensors have no shape until then. ...
    """
    for what, model in models.items():
        if not isinstance(model, nn.Module):
            continue
        left = [path for path, tensor in chain(model.named_parameters(), model.named_buffers()) if is_lazy(tensor)]
        if left:
            raise CaptureError(
                f"{shorten(left)}: the {what} was never run, and these tensors have no shape until then. Run it once on an "
                "input, in eval mode and under torch.no_grad(), and map it then"
            )
