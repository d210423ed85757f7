"""Fill a converted or observed model in place: torch's own prepare and convert, run on its float twin.

The twin of a static int8 model gets the mapped float weights, torch's `prepare` puts observers where the model has ranges,
the calibration batches run through it, and torch's `convert` makes the very state dict that the reference recipe (load
float weights, fuse, prepare, calibrate, convert) would have made. Only then is the destination written.
"""

import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fxmap.errors import QuantizationError
from fxmap.expressions.base import Expression
from fxmap.expressions.packing import clone
from fxmap.expressions.scheme import Scheme
from fxmap.forms.saturation import Saturations, saturated, saturating_ranges
from fxmap.forms.stage import Stage
from fxmap.forms.twin import Twin, float_twin
from fxmap.model.replica import named_tensors

Result = TypeVar("Result")


def calibrated_state(
    dst: nn.Module,
    expressions: Mapping[str, Expression],
    state: Mapping[str, Any],
    batches: Iterable[Any],
    qconfig: Any = None,
    kept: frozenset[str] = frozenset(),
    saturating: Saturations = MappingProxyType({}),
) -> dict[str, Any]:
    """Make the destination's full state dict from mapped weights and calibration batches; `dst` is not changed.

    Args:
        dst: a model that was converted to static int8, or prepared with observers.
        expressions: how its keys are made, as in a mapping.
        state: the source's state dict.
        batches: inputs of the model: tensors, tuples of arguments (more than forward takes are dropped, as labels that a
            data loader adds), or dicts of keyword arguments.
        qconfig: observers; by default the model's own, or default_observer with weights as in the model.
        kept: keys of weights that the destination keeps.
        saturating: relus that saturate, by the ranges behind them.

    Raises:
        QuantizationError: there are no batches, the model refuses one, or a layer refuses the scheme.
    """
    import torch.ao.quantization as tq

    twin = filled_twin(dst, expressions, state)
    module = twin.module
    _assign_qconfig(dst, twin, qconfig)
    with warnings.catch_warnings():
        # Notices of torch about its own deprecations, and about heads that the batches do not reach.
        warnings.simplefilter("ignore")
        attempt(partial(tq.prepare, module, inplace=True), "prepare")
        with saturated(module, saturating):
            run(module, batches)
        if twin.stage is Stage.CONVERTED:
            attempt(partial(tq.convert, module, inplace=True), "convert")
    made = module.state_dict()
    made |= saturating_ranges(made, saturating)
    own = dst.state_dict()
    if set(made) != set(own):
        odd = sorted(set(made) ^ set(own))
        raise QuantizationError(
            f"{odd[0]} (and {len(odd) - 1} more keys): the destination was not made by prepare and convert of one qconfig, "
            "and cannot be rebuilt from its float twin; build it with torch.ao.quantization from the float weights"
        )
    values = {key: own[key] if key in kept else made[key] for key in own}
    return {key: clone(value) if isinstance(value, Tensor) else value for key, value in values.items()}


def filled_twin(dst: nn.Module, expressions: Mapping[str, Expression], state: Mapping[str, Any]) -> Twin:
    """Return the destination's float twin, in eval mode, with the mapped weights."""
    twin = float_twin(dst)
    twin.module.eval()
    fill_twin(twin, expressions, state)
    return twin


def run(module: nn.Module, batches: Iterable[Any]) -> int:
    """Run a model over batches without gradients; return how many there were.

    Raises:
        QuantizationError: there were none, or the model refused one.
    """
    count = 0
    with torch.no_grad():
        for batch in batches:
            args, kwargs = arguments(module, batch)
            try:
                module(*args, **kwargs)
            except (RuntimeError, TypeError, ValueError, IndexError, AssertionError) as error:
                # Guards of an exported graph assert.
                raise QuantizationError(f"calibration batch {count}: the model refuses it: {error}") from error
            count += 1
    if not count:
        raise QuantizationError("calibration has no batches; give an iterable of inputs of the destination")
    return count


def arguments(module: nn.Module, batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Turn a batch into arguments of forward."""
    if isinstance(batch, Mapping):
        return (), dict(batch)
    if not isinstance(batch, list | tuple):
        return (batch,), {}
    parameters = inspect.signature(module.forward).parameters.values()
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return tuple(batch), {}
    return tuple(batch[: len(parameters)]), {}


def fill_twin(twin: Twin, expressions: Mapping[str, Expression], state: Mapping[str, Any]) -> None:
    """Give a twin the mapped weights, in float."""
    owners = {path: (owner, attribute) for path, owner, attribute in named_tensors(twin.module)}
    for key, store in twin.stores.items():
        expression = expressions.get(key)
        if expression is None:
            continue
        # Of the destination's integers, scales and zero points, each is made from one float weight.
        for path, value in store.parts(expression.evaluate(state, quantized=False)).items():
            owner, attribute = owners[path]
            if attribute in owner._parameters:
                owner._parameters[attribute] = nn.Parameter(value.detach().clone(), requires_grad=False)
            else:
                owner._buffers[attribute] = value.detach().clone()


def _assign_qconfig(dst: nn.Module, twin: Twin, qconfig: Any) -> None:
    """Give every module of the twin the qconfig that its counterpart must have had; None where it was left in float."""
    import torch.ao.quantization as tq
    from torch.ao.quantization.quantization_mappings import DEFAULT_STATIC_QUANT_MODULE_MAPPINGS

    if twin.stage is Stage.PREPARED:
        originals = dict(dst.named_modules())
        for path, module in twin.module.named_modules():
            own = getattr(originals.get(path), "qconfig", None)
            vars(module)["qconfig"] = own if qconfig is None or own is None else qconfig
        return
    converted = set(twin.converted)
    schemes = {owner_of(store.weight, converted): store.scheme for store in twin.stores.values() if store.scheme is not None}
    for path, module in twin.module.named_modules():
        if path in converted:
            scheme = schemes.get(path)
            only = scheme is not None and scheme.weight_only
            module.qconfig = weight_qconfig(scheme) if only else qconfig or weight_qconfig(scheme)
        elif type(module) in DEFAULT_STATIC_QUANT_MODULE_MAPPINGS and not any(path.startswith(f"{c}.") for c in converted):
            # It could have been converted, and was not.
            vars(module)["qconfig"] = None
    if "" not in converted:
        twin.module.qconfig = qconfig or tq.QConfig(activation=tq.default_observer, weight=tq.default_weight_observer)


def owner_of(path: str, converted: set[str]) -> str | None:
    """Return the converted module that a tensor belongs to."""
    while path:
        path = path.rpartition(".")[0]
        if path in converted:
            return path
    return None


def weight_qconfig(scheme: Scheme | None) -> Any:
    """Return torchvision's observer of activations, and an observer of weights of a scheme."""
    import torch.ao.quantization as tq

    if scheme is None:
        return tq.QConfig(activation=tq.default_observer, weight=tq.default_weight_observer)
    if scheme.weight_only:
        return tq.float_qparams_weight_only_qconfig_4bit if scheme.quant_max == 15 else tq.float_qparams_weight_only_qconfig
    options: dict[str, Any] = {"dtype": getattr(torch, scheme.dtype), "qscheme": getattr(torch, scheme.qscheme)}
    if (scheme.quant_min, scheme.quant_max) != (-128, 127):
        options |= {"quant_min": scheme.quant_min, "quant_max": scheme.quant_max}
    if scheme.per_channel:
        weight = tq.PerChannelMinMaxObserver.with_args(ch_axis=scheme.axis, **options)
    else:
        weight = tq.MinMaxObserver.with_args(**options)
    return tq.QConfig(activation=tq.default_observer, weight=weight)


def attempt(step: Callable[[], Result], name: str) -> Result:
    """Run a step of torch's own.

    Raises:
        QuantizationError: torch refuses.
    """
    try:
        return step()
    except (RuntimeError, AssertionError, ValueError, TypeError, NotImplementedError) as error:
        raise QuantizationError(
            f"torch's {name} refuses the destination's layers with this qconfig: {error}. Nothing was written; "
            "give a qconfig that every layer takes, such as one with per-tensor weights (default_weight_observer)"
        ) from error
