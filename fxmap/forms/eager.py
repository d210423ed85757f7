"""The form of eager torch.ao: quantizable, fused, prepared, QAT, and converted models, static and dynamic.

Such a model is filled by torch's own prepare and convert, run on its float twin: the twin of a static int8 model gets the
mapped float weights, `prepare` puts observers where the model has ranges, the calibration batches run through it, and
`convert` makes the very state dict that the reference recipe (load float weights, fuse, prepare, calibrate, convert) would
have made. Only then is the destination written.
"""

import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fxmap.errors import QuantizationError
from fxmap.expressions.base import Expression
from fxmap.expressions.packing import clone
from fxmap.expressions.scheme import Scheme
from fxmap.expressions.values import evaluated
from fxmap.forms import eager_modules, eager_recurrent, stages
from fxmap.forms.conversion import Conversion, Seen
from fxmap.forms.fill import Filled, FillRequest, attempt, run
from fxmap.forms.form import Findings, Form, Twin
from fxmap.forms.saturation import saturated, saturating_ranges
from fxmap.forms.stages import Stage
from fxmap.model.replica import named_tensors


def observed_or_converted(found: Findings) -> Stage | None:
    """Return the stage of a model that has observers or int8 modules of torch.ao, eager or FX; None where it has neither."""
    if found.has(Seen.INT8):
        return stages.CONVERTED if found.has(Seen.RANGE) else stages.DYNAMIC
    if found.has(Seen.OBSERVER):
        return stages.QAT if found.has(Seen.QAT_LAYER) else stages.PREPARED
    return None


def _recognise(found: Findings) -> Stage | None:
    import torch.ao.nn.intrinsic as nni
    import torch.ao.quantization as tq

    modules = list(found.model.modules())
    if stage := observed_or_converted(found):
        return stage
    if any(isinstance(module, nni.ConvBn1d | nni.ConvBnReLU1d | nni.ConvBn2d | nni.ConvBnReLU2d) for module in modules):
        return stages.FUSED_QAT
    stubs = any(isinstance(module, tq.QuantStub) for module in modules)
    fused = any(isinstance(module, nni._FusedModule) for module in modules)
    if fused or (stubs and not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in modules)):
        return stages.FUSED
    return stages.QUANTIZABLE if stubs else None


def _conversions() -> tuple[Conversion, ...]:
    # Embeddings come before the general row for quantized modules, which would match them.
    return (*eager_modules.conversions(), *eager_recurrent.conversions(), *eager_modules.layer_conversions())


def fill(twin: Twin, request: FillRequest) -> Filled:
    """Build an eager model's full state dict from mapped weights and calibration batches.

    Observers are by default the model's own, or default_observer with weights as in the model.

    Raises:
        QuantizationError: there are no batches, the model refuses one, or a layer refuses the scheme.
    """
    import torch.ao.quantization as tq

    fill_twin(twin, request.expressions, request.state)
    module = twin.module.eval()
    _assign_qconfig(request.dst, twin, request.qconfig)
    with warnings.catch_warnings():
        # Notices of torch about its own deprecations, and about heads that the batches do not reach.
        warnings.simplefilter("ignore")
        attempt(partial(tq.prepare, module, inplace=True), "prepare")
        with saturated(module, request.saturating):
            run(module, request.batches)
        if twin.stage == stages.CONVERTED:
            attempt(partial(tq.convert, module, inplace=True), "convert")
    made = module.state_dict()
    made |= saturating_ranges(made, request.saturating)
    own = request.dst.state_dict()
    if set(made) != set(own):
        odd = sorted(set(made) ^ set(own))
        raise QuantizationError(
            f"{odd[0]} (and {len(odd) - 1} more keys): the destination was not made by prepare and convert of one qconfig, "
            "and cannot be rebuilt from its float twin; build it with torch.ao.quantization from the float weights"
        )
    values = {key: own[key] if key in request.kept else made[key] for key in own}
    return Filled({key: clone(value) if isinstance(value, Tensor) else value for key, value in values.items()})


def fill_twin(twin: Twin, expressions: Mapping[str, Expression], state: Mapping[str, Any]) -> None:
    """Load the mapped weights into a float twin."""
    owners = {path: (owner, attribute) for path, owner, attribute in named_tensors(twin.module)}
    for key, store in twin.stores.items():
        expression = expressions.get(key)
        if expression is None:
            continue
        # Of the destination's integers, scales and zero points, each is made from one float weight.
        for path, value in store.parts(evaluated(key, expression, state, quantized=False)).items():
            owner, attribute = owners[path]
            if attribute in owner._parameters:
                owner._parameters[attribute] = nn.Parameter(value.detach().clone(), requires_grad=False)
            else:
                owner._buffers[attribute] = value.detach().clone()


def _assign_qconfig(dst: nn.Module, twin: Twin, qconfig: Any) -> None:
    """Set the qconfig of every module of the twin to that of its counterpart; None where that was left in float."""
    import torch.ao.quantization as tq
    from torch.ao.quantization.quantization_mappings import DEFAULT_STATIC_QUANT_MODULE_MAPPINGS

    if twin.stage == stages.PREPARED:
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
    """Return a qconfig with torchvision's observer of activations, and an observer of weights for a scheme."""
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


def _convert(model: nn.Module) -> nn.Module:
    import torch.ao.quantization as tq

    converted: nn.Module = tq.convert(model.eval(), inplace=True)
    return converted


EAGER = Form(
    "eager torch.ao",
    _recognise,
    packages=("torch.ao.quantization",),
    conversions=_conversions,
    tidy=eager_modules.tidy,
    fill=fill,
    convert=_convert,
)
