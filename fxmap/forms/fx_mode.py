"""The form of FX graph mode: models of prepare_fx, prepare_qat_fx and convert_fx.

Such a model is filled by torch's own prepare_fx and convert_fx, run on its float twin. The twin gets the mapped weights, and
goes the way that the model went: the graph that comes out is the model's own, node by node, and so its state dict is what
the reference recipe (load float weights, prepare_fx, calibrate, convert_fx) makes. Ranges that a form shares (the inputs of
a concatenation, through pools and activations) are shared by prepare_fx itself.
"""

import copy
import warnings
from collections.abc import Iterator
from functools import partial
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxmap.errors import QuantizationError
from fxmap.expressions.values import evaluated
from fxmap.forms import stages
from fxmap.forms.eager import fill_twin, observed_or_converted, owner_of, weight_qconfig
from fxmap.forms.fill import Filled, FillRequest, arguments, attempt, run
from fxmap.forms.form import Findings, Form, Twin
from fxmap.forms.graph_nodes import is_observer, set_tensor
from fxmap.forms.node_rules import DROP_BORDER, DROP_IDENTITY, QUANTIZED_FUNCTION
from fxmap.forms.stages import Stage
from fxmap.model.replica import replicate


def _recognise(found: Findings) -> Stage | None:
    return observed_or_converted(found) if isinstance(found.model, fx.GraphModule) else None


def fill(twin: Twin, request: FillRequest) -> Filled:
    """Build an FX model's full state dict from mapped weights and calibration batches.

    `qconfig` is a QConfig or a QConfigMapping; by default the model's own, which its graph remembers, else default_observer
    with weights as in the model.

    Raises:
        QuantizationError: there are no batches, the model refuses one, a layer refuses the scheme, or prepare_fx and
            convert_fx make another graph of the twin.
    """
    if twin.stage == stages.PREPARED:
        return fill_observed(request)
    fill_twin(twin, request.expressions, request.state)
    return _kept_or_made(request, _converted(twin, request))


def _kept_or_made(request: FillRequest, made: dict[str, Any]) -> Filled:
    own = request.dst.state_dict()
    return Filled({key: value if key in request.kept else made[key] for key, value in own.items()})


def _converted(twin: Twin, request: FillRequest) -> dict[str, Any]:
    from torch.ao.nn.quantized import Dropout
    from torch.ao.quantization import quantize_fx

    dst: Any = request.dst
    module = replicate(twin.module, lambda path, part: nn.Dropout(part.p) if isinstance(part, Dropout) else None).eval()
    convert = quantize_fx.convert_to_reference_fx if twin.stage == stages.REFERENCE else quantize_fx.convert_fx
    batches = iter(request.batches or ())
    first = list(islice(batches, 1))
    example = arguments(module, first[0])[0] if first else ()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's notices of its own deprecations
        mapping = _qconfig_mapping(dst, twin, request.qconfig)
        prepared = attempt(partial(quantize_fx.prepare_fx, module, mapping, example), "prepare_fx")
        run(prepared, chain(first, batches))
        result = attempt(partial(convert, prepared), "convert_fx")
    return _renamed(result, dst)


def fill_observed(request: FillRequest) -> Filled:
    """Show batches to fresh observers of a prepared graph, in a replica that has the mapped weights."""
    dst = request.dst
    observers = [path for path, part in dst.named_modules() if is_observer(part)]
    replica = replicate(dst, lambda path, part: copy.deepcopy(part) if path in observers else None).eval()
    for path in observers:
        reset(replica.get_submodule(path))
    own = dst.state_dict()
    weights = {key: evaluated(key, part, request.state) for key, part in request.expressions.items() if key in own}
    for key, value in weights.items():
        set_tensor(replica, key, value.detach().clone())  # it may be the caller's own
    run(replica, request.batches)
    return _kept_or_made(request, dict(replica.state_dict()))


def reset(observer: nn.Module) -> None:
    """Clear the statistics of an observer; its configuration, such as a fixed scale, stays."""
    fresh = {"min_val": float("inf"), "max_val": float("-inf"), "histogram": 0.0}
    for module in observer.modules():
        for name, value in module._buffers.items():
            if value is None or name not in fresh:
                continue
            per_channel = name in ("min_val", "max_val") and value.dim() > 0
            module._buffers[name] = value.new_empty(0) if per_channel else torch.full_like(value, fresh[name])


def _qconfig_mapping(dst: fx.GraphModule, twin: Twin, qconfig: Any) -> Any:
    """Return the qconfig mapping to prepare the twin with; modules that are float in the model get none."""
    import torch.ao.quantization as tq
    from torch.ao.quantization.quantization_mappings import DEFAULT_STATIC_QUANT_MODULE_MAPPINGS

    if isinstance(qconfig, tq.QConfigMapping):
        return qconfig
    converted = set(twin.converted)
    own = {} if qconfig is not None else dict(_remembered(dst))
    schemes = {owner_of(store.weight, converted): store.scheme for store in twin.stores.values() if store.scheme is not None}
    mapping = _with_default(qconfig or next(iter(own.values()), weight_qconfig(None)))
    for path, module in twin.module.named_modules():
        if path in own:
            mapping.set_module_name(path, own[path])
        elif path in schemes and qconfig is None:
            mapping.set_module_name(path, weight_qconfig(schemes[path]))
        elif type(module) in DEFAULT_STATIC_QUANT_MODULE_MAPPINGS and owner_of(f"{path}.", converted) is None:
            mapping.set_module_name(path, None)
    return mapping


def _with_default(qconfig: Any) -> Any:
    """Return torch's default qconfig mapping with this qconfig; exceptions such as sigmoid's fixed range stay."""
    from torch.ao.quantization import QConfig, get_default_qconfig_mapping

    mapping = get_default_qconfig_mapping(torch.backends.quantized.engine)
    default = mapping.global_qconfig
    mapping.set_global(qconfig)
    for pattern, found in list(mapping.object_type_qconfigs.items()):
        if found is default:
            mapping.set_object_type(pattern, qconfig)
        elif found is not None and found.activation is default.activation:
            mapping.set_object_type(pattern, QConfig(activation=qconfig.activation, weight=found.weight))
    return mapping


def _remembered(dst: fx.GraphModule) -> Iterator[tuple[str, Any]]:
    """Yield the qconfig of every called module, as far as prepare_fx's notes are left on the nodes."""
    from torch.ao.quantization import QConfig

    for node in dst.graph.nodes:
        noted = node.meta.get("target_dtype_info") or {}
        activation, weight = noted.get("output_act_obs_or_fq_ctr"), noted.get("weight_obs_or_fq_ctr")
        if node.op == "call_module" and activation is not None and weight is not None:
            yield str(node.target), QConfig(activation=activation, weight=weight)


def _renamed(made: fx.GraphModule, dst: fx.GraphModule) -> dict[str, Any]:
    """Rename the state dict of a graph to the names of an equal graph, node by node."""
    names: dict[str, str] = {}
    nodes, own = list(made.graph.nodes), list(dst.graph.nodes)
    for one, other in zip(nodes, own, strict=False):
        if not _same_call(one, made, other, dst):
            raise QuantizationError(_other_graph(one, other))
        if one.op in ("get_attr", "call_module"):
            names[str(other.target)] = str(one.target)
    if len(nodes) != len(own):
        raise QuantizationError(_other_graph(nodes[-1], own[-1]))
    state = made.state_dict()
    found: dict[str, Any] = {}
    for key, value in dst.state_dict().items():
        owner = next((name for name in _owners(key) if name in names), None)
        source = key if owner is None else names[owner] + key.removeprefix(owner)
        found[key] = state.get(source, value)
        if isinstance(value, Tensor) and isinstance(found[key], Tensor) and value.dim() != found[key].dim():
            # A scale is a number or a tensor of one number, as it was loaded.
            found[key] = found[key].reshape(value.shape)
    return found


def _owners(key: str) -> Iterator[str]:
    while key:
        yield key
        key = key.rpartition(".")[0]


def _same_call(one: fx.Node, made: fx.GraphModule, other: fx.Node, dst: fx.GraphModule) -> bool:
    if one.op != other.op or len(one.all_input_nodes) != len(other.all_input_nodes):
        return False
    if one.op == "call_module":
        return type(made.get_submodule(str(one.target))) is type(dst.get_submodule(str(other.target)))
    return one.op in ("get_attr", "placeholder", "output") or one.target == other.target


def _other_graph(one: fx.Node, other: fx.Node) -> str:
    return (
        f"{other.name} ({other.target}): prepare_fx and convert_fx make {one.name} ({one.target}) of the float twin there: "
        "the destination was not made with this configuration; pass qconfig= the QConfigMapping that it was prepared "
        "with. Nothing was written"
    )


def _convert(model: nn.Module) -> nn.Module:
    from torch.ao.quantization import quantize_fx

    converted: nn.Module = quantize_fx.convert_fx(model.eval())
    return converted


FX_MODE = Form(
    "FX graph mode of torch.ao",
    _recognise,
    packages=("torch.ao.quantization",),
    node_rules=(DROP_BORDER, DROP_IDENTITY, QUANTIZED_FUNCTION),
    fill=fill,
    convert=_convert,
)
