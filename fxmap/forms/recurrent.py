"""Float twins of quantized recurrent layers and embeddings, and where their tensors are stored.

A recurrent layer is one module in the twin, whatever it was taken apart into: dynamic layers pack each direction of each
layer in one object, static ones have a linear layer for the inputs and one for the hidden state.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fxmap.errors import QuantizationError
from fxmap.expressions.scheme import Scheme
from fxmap.forms.store import Store


@dataclass(frozen=True)
class Replacement:
    """A float module in the place of a quantized one: what it stores, and the int8 modules that it replaces."""

    module: nn.Module
    stores: dict[str, Store]
    converted: dict[str, nn.Module] = field(default_factory=dict)


def is_weight_only(module: nn.Module) -> bool:
    """Whether a quantized module takes float activations: nothing of it needs calibration."""
    import torch.ao.nn.quantized as nnq
    import torch.ao.nn.quantized.dynamic as nnqd
    from torch.ao.nn.quantized.dynamic.modules.rnn import RNNBase, RNNCellBase

    return isinstance(module, nnqd.Linear | nnq.Embedding | RNNBase | RNNCellBase)


def replacement(path: str, module: Any, *, narrow: bool) -> Replacement | None:
    """Return the float counterpart of a recurrent layer or an embedding of torch.ao; None for any other module.

    Raises:
        QuantizationError: its weights are of a kind that is not supported.
    """
    import torch.ao.nn.quantizable as nnqa
    import torch.ao.nn.quantized as nnq
    from torch.ao.nn.quantized.dynamic.modules.rnn import RNNBase, RNNCellBase

    if isinstance(module, nnq.Embedding):
        return _embedding(path, module)
    if isinstance(module, RNNBase):
        return _dynamic_layers(path, module, narrow)
    if isinstance(module, RNNCellBase):
        return _dynamic_cell(path, module, narrow)
    if isinstance(module, nnqa.LSTM):
        return _static_lstm(path, module, narrow)
    return None


def _embedding(path: str, module: Any) -> Replacement:
    import torch.ao.nn.quantized as nnq

    weight = module.weight()
    size = module.num_embeddings, module.embedding_dim
    if isinstance(module, nnq.EmbeddingBag):
        last = module.include_last_offset
        twin: nn.Module = nn.EmbeddingBag(*size, mode=module.mode, include_last_offset=last, device="meta")
    else:
        twin = nn.Embedding(*size, device="meta")
    twin.weight = _parameter(weight.dequantize())
    key = _join(path, "_packed_params._packed_weight")
    return Replacement(twin, {key: Store(_join(path, "weight"), scheme=Scheme.of(weight))}, {path: module})


def _dynamic_layers(path: str, module: Any, narrow: bool) -> Replacement:
    require_int8(path, module.dtype)
    twin = _like(module)
    weights = module.get_weight()
    stores: dict[str, Store] = {}
    for number, suffix in enumerate(_suffixes(module)):
        for name, value in (*weights.items(), *module.get_bias().items()):
            if name.endswith(suffix) and name in (f"{part}{suffix}" for part in _PARTS):
                setattr(twin, name, _parameter(value))
        stores[_join(path, f"_all_weight_values.{number}.param")] = Store(
            _join(path, f"weight_ih{suffix}"),
            _join(path, f"bias_ih{suffix}"),
            Scheme.of(weights[f"weight_ih{suffix}"], narrow=narrow),
            packed="cell",
            hidden=(_join(path, f"weight_hh{suffix}"), _join(path, f"bias_hh{suffix}")),
        )
    return Replacement(twin, stores, {path: module})


def _dynamic_cell(path: str, module: Any, narrow: bool) -> Replacement:
    require_int8(path, module.weight_dtype)
    options = {"nonlinearity": module.nonlinearity} if hasattr(module, "nonlinearity") else {}
    twin: nn.Module = getattr(nn, type(module).__name__)(module.input_size, module.hidden_size, device="meta", **options)
    weights, biases = module.get_weight(), module.get_bias()
    for name, value in (weights | biases).items():
        setattr(twin, name, _parameter(value))
    stores = {
        _join(path, f"_packed_weight_{part}"): Store(
            _join(path, f"weight_{part}"),
            _join(path, f"bias_{part}"),
            Scheme.of(weights[f"weight_{part}"], narrow=narrow),
            packed="linear",
        )
        for part in ("ih", "hh")
    }
    return Replacement(twin, stores, {path: module})


def _static_lstm(path: str, module: Any, narrow: bool) -> Replacement:
    """Put one LSTM in the place of one that was taken apart, converted or only prepared."""
    twin = _like(module)
    stores: dict[str, Store] = {}
    for number, layer in enumerate(module.layers):
        for direction, suffix in (("layer_fw", f"_l{number}"), ("layer_bw", f"_l{number}_reverse")):
            if not hasattr(layer, direction):
                continue
            cell = getattr(layer, direction).cell
            if getattr(cell, "split_gates", False):
                raise QuantizationError(f"{path}: an LSTM with split gates is not supported; prepare it without split_gates")
            for part, gates in (("ih", cell.igates), ("hh", cell.hgates)):
                where = _join(path, f"layers.{number}.{direction}.cell.{'igates' if part == 'ih' else 'hgates'}")
                names = f"weight_{part}{suffix}", f"bias_{part}{suffix}"
                values = gates._weight_bias() if hasattr(gates, "_weight_bias") else (gates.weight, gates.bias)
                for name, value in zip(names, values, strict=True):
                    if value is not None:
                        setattr(twin, name, _parameter(value))
                stores |= _gate_stores(path, where, names, values, narrow)
    quantized = {
        _join(path, name): part for name, part in module.named_modules() if ".quantized." in type(part).__module__ and name
    }
    twin.train(module.training)
    if "qconfig" in vars(module):
        vars(twin)["qconfig"] = module.qconfig
    is_int8 = any(store.packed for store in stores.values())
    return Replacement(twin, stores, {path: module} | quantized if is_int8 else {})


def _gate_stores(path: str, where: str, names: tuple[str, str], values: Any, narrow: bool) -> dict[str, Store]:
    weight, bias = values
    own = [_join(path, name) for name in names]
    if weight.is_quantized:
        scheme = Scheme.of(weight, narrow=narrow)
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


def require_int8(path: str, dtype: torch.dtype) -> None:
    """Refuse a dynamic layer with weights of another dtype.

    Raises:
        QuantizationError: it has.
    """
    if dtype is not torch.qint8:
        raise QuantizationError(
            f"{path}: a dynamic layer with {dtype} weights is not supported; quantize it with dtype=torch.qint8"
        )


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
