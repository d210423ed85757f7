"""Float twins of quantized recurrent layers and embeddings, and where their tensors are stored.

A recurrent layer is one module in the twin, whatever it was taken apart into: dynamic layers pack each direction of each
layer in one object, static ones have a linear layer for the inputs and one for the hidden state.
"""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from fxmap.errors import QuantizationError
from fxmap.expressions.scheme import Scheme
from fxmap.forms.conversion import Conversion, Converted, Part, Seen
from fxmap.forms.eager_modules import int8, require_int8
from fxmap.forms.graph_nodes import is_observer
from fxmap.forms.store import Store


def conversions() -> tuple[Conversion, ...]:
    """Return the rows for recurrent layers and embeddings of torch.ao."""
    import torch.ao.nn.quantizable as nnqa
    import torch.ao.nn.quantized as nnq
    from torch.ao.nn.quantized.dynamic.modules.rnn import RNNBase, RNNCellBase

    return (
        Conversion((nnq.Embedding,), _embedding),
        Conversion((RNNBase,), _dynamic_layers),
        Conversion((RNNCellBase,), _dynamic_cell),
        Conversion((nnqa.LSTM,), _static_lstm),
    )


def _embedding(part: Part) -> Converted:
    import torch.ao.nn.quantized as nnq

    module = part.module
    weight = module.weight()
    size = module.num_embeddings, module.embedding_dim
    if isinstance(module, nnq.EmbeddingBag):
        last = module.include_last_offset
        twin: nn.Module = nn.EmbeddingBag(*size, mode=module.mode, include_last_offset=last, device="meta")
    else:
        twin = nn.Embedding(*size, device="meta")
    twin.weight = _parameter(weight.dequantize())
    stores = {part.key("_packed_params._packed_weight"): Store(part.key("weight"), scheme=Scheme.of(weight))}
    return int8(part, twin, stores, weight_only=True)


def _dynamic_layers(part: Part) -> Converted:
    module = part.module
    require_int8(part, module.dtype)
    twin = _like(module)
    weights = module.get_weight()
    stores: dict[str, Store] = {}
    for number, suffix in enumerate(_suffixes(module)):
        for name, value in (*weights.items(), *module.get_bias().items()):
            if name.endswith(suffix) and name in (f"{start}{suffix}" for start in _PARTS):
                setattr(twin, name, _parameter(value))
        stores[part.key(f"_all_weight_values.{number}.param")] = Store(
            part.key(f"weight_ih{suffix}"),
            part.key(f"bias_ih{suffix}"),
            part.scheme(weights[f"weight_ih{suffix}"]),
            packed="cell",
            hidden=(part.key(f"weight_hh{suffix}"), part.key(f"bias_hh{suffix}")),
        )
    return int8(part, twin, stores, weight_only=True)


def _dynamic_cell(part: Part) -> Converted:
    module = part.module
    require_int8(part, module.weight_dtype)
    options = {"nonlinearity": module.nonlinearity} if hasattr(module, "nonlinearity") else {}
    twin: nn.Module = getattr(nn, type(module).__name__)(module.input_size, module.hidden_size, device="meta", **options)
    weights, biases = module.get_weight(), module.get_bias()
    for name, value in (weights | biases).items():
        setattr(twin, name, _parameter(value))
    stores = {
        part.key(f"_packed_weight_{kind}"): Store(
            part.key(f"weight_{kind}"),
            part.key(f"bias_{kind}"),
            part.scheme(weights[f"weight_{kind}"]),
            packed="linear",
        )
        for kind in ("ih", "hh")
    }
    return int8(part, twin, stores, weight_only=True)


def _static_lstm(part: Part) -> Converted:
    """Replace an LSTM that torch took apart into linear layers, prepared or converted, by one nn.LSTM."""
    module = part.module
    twin = _like(module)
    stores: dict[str, Store] = {}
    for number, layer in enumerate(module.layers):
        for direction, suffix in (("layer_fw", f"_l{number}"), ("layer_bw", f"_l{number}_reverse")):
            if not hasattr(layer, direction):
                continue
            cell = getattr(layer, direction).cell
            if getattr(cell, "split_gates", False):
                raise QuantizationError(
                    f"{part.path}: an LSTM with split gates is not supported; prepare it without split_gates"
                )
            for kind, gates in (("ih", cell.igates), ("hh", cell.hgates)):
                where = part.key(f"layers.{number}.{direction}.cell.{'igates' if kind == 'ih' else 'hgates'}")
                names = f"weight_{kind}{suffix}", f"bias_{kind}{suffix}"
                values = gates._weight_bias() if hasattr(gates, "_weight_bias") else (gates.weight, gates.bias)
                for name, value in zip(names, values, strict=True):
                    if value is not None:
                        setattr(twin, name, _parameter(value))
                stores |= _gate_stores(part, where, names, values)
    twin.train(module.training)
    if "qconfig" in vars(module):
        vars(twin)["qconfig"] = module.qconfig
    observed = Seen.OBSERVER if any(map(is_observer, module.modules())) else Seen.NOTHING
    if not any(store.packed for store in stores.values()):
        return Converted(twin, stores, seen=observed)
    inner = {name: child for name, child in module.named_modules() if ".quantized." in type(child).__module__ and name}
    return int8(part, twin, stores, inner=inner, seen=observed)


def _gate_stores(part: Part, where: str, names: tuple[str, str], values: Any) -> dict[str, Store]:
    weight, bias = values
    own = [part.key(name) for name in names]
    if weight.is_quantized:
        scheme = part.scheme(weight)
        held = Store(own[0], own[1] if bias is not None else None, scheme, packed="tuple")
        return {f"{where}._packed_params._packed_params": held}
    stores = {f"{where}.weight": Store(own[0])}
    return stores if bias is None else stores | {f"{where}.bias": Store(own[1])}


_PARTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def _suffixes(module: Any) -> Iterator[str]:
    for layer in range(module.num_layers):
        yield f"_l{layer}"
        if module.bidirectional:
            yield f"_l{layer}_reverse"


def _like(module: Any) -> nn.Module:
    """Build the plain LSTM or GRU of a module's sizes, without values."""
    kind = nn.GRU if getattr(module, "mode", "LSTM") == "GRU" else nn.LSTM
    return kind(
        module.input_size,
        module.hidden_size,
        module.num_layers,
        module.bias,
        module.batch_first,
        # Dropout between layers exists in training alone, where these modules can't be.
        bidirectional=module.bidirectional,
        device="meta",
    )


def _parameter(value: Tensor) -> nn.Parameter:
    value = value.detach()
    return nn.Parameter(value.dequantize() if value.is_quantized else value)
