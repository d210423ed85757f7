"""Models, quantized forms and references, made without fxmap.

The *reference* of a form is what one gets by loading the float weights into the quantizable model first, and only then
fusing, preparing, calibrating and converting. A *destination* is the same form, built from other weights and other data, so
that no value of it can be right by accident. Everything is seeded; the global random state is neither read nor changed.

>>> source = randomised_float("resnet18", seed=1)
>>> reference = build_form("resnet18", Form.FUSED, source.state_dict())
>>> len(source.state_dict()), len(reference.state_dict())
(122, 42)
"""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import torch
import torch.ao.nn.intrinsic as nni
import torch.ao.quantization as tq
import torchvision
from torch import Tensor, fx, nn

from benchmarks import graph_recipes

State = Mapping[str, Any]
Batches = Sequence[Tensor]

IMAGE = 96  # pixels; the least that Inception-v3 takes is 75


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """How to build a quantizable model of torchvision: further arguments, and the image size of its training mode."""

    options: dict[str, Any] = field(default_factory=dict)
    train_image: int = IMAGE


# In the order of their cost. Inception's auxiliary head, which only training mode runs, needs its 299 pixels.
MODELS: dict[str, ModelSpec] = {
    "shufflenet_v2_x0_5": ModelSpec(),
    "resnet18": ModelSpec(),
    "shufflenet_v2_x1_0": ModelSpec(),
    "mobilenet_v2": ModelSpec(),
    "shufflenet_v2_x1_5": ModelSpec(),
    "mobilenet_v3_large": ModelSpec(),
    "shufflenet_v2_x2_0": ModelSpec(),
    "googlenet": ModelSpec({"init_weights": False}),
    "resnet50": ModelSpec(),
    "inception_v3": ModelSpec({"init_weights": False}, train_image=299),
    "resnext101_64x4d": ModelSpec(),
    "resnext101_32x8d": ModelSpec(),
}


class Form(StrEnum):
    """A form of a model on the way from float to int8."""

    FLOAT = "float"
    QUANTIZABLE = "quantizable"
    FUSED = "fused"
    FUSED_QAT = "fused-qat"
    PREPARED = "prepared"
    QAT = "qat"
    INT8_CHANNEL = "int8-channel"
    INT8_CHANNEL_DEFAULT = "int8-channel-default"
    INT8_TENSOR = "int8-tensor"
    INT8_TENSOR_DEFAULT = "int8-tensor-default"
    DYNAMIC = "dynamic"
    FX_FUSED = "fx-fused"
    FX_PREPARED = "fx-prepared"
    FX_QAT = "fx-qat"
    FX_INT8 = "fx-int8"
    FX_REFERENCE = "fx-reference"
    PT2E_X86_PREPARED = "pt2e-x86-prepared"
    PT2E_X86_QAT = "pt2e-x86-qat"
    PT2E_X86_INT8 = "pt2e-x86-int8"
    PT2E_XNNPACK_PREPARED = "pt2e-xnnpack-prepared"
    PT2E_XNNPACK_QAT = "pt2e-xnnpack-qat"
    PT2E_XNNPACK_INT8 = "pt2e-xnnpack-int8"

    @property
    def engine(self) -> str:
        """The engine of torch that the form is built for and runs under."""
        return "qnnpack" if self in (Form.INT8_TENSOR, Form.INT8_TENSOR_DEFAULT) else "fbgemm"

    @property
    def qconfig(self) -> Any:
        """The observers that the form is prepared with; None for forms without observers."""
        make = _QCONFIGS.get(self)
        return None if make is None else make()

    @property
    def is_static_int8(self) -> bool:
        """Whether activations are int8, with ranges that come from calibration."""
        return self.startswith("int8-") or self.endswith("-int8") or self is Form.FX_REFERENCE

    @property
    def is_qat(self) -> bool:
        """Whether the model is prepared for QAT."""
        return self is Form.QAT or self.endswith("-qat")

    @property
    def is_graph(self) -> bool:
        """Whether the model is a graph that torch made: FX mode, or PT2E."""
        return self in graph_recipes.BUILDERS


def torchvision_qconfig(*, per_channel: bool) -> Any:
    """Return the qconfig of torchvision's own `quantize_model`: min and max of activations, 0 to 127."""
    weight = tq.default_per_channel_weight_observer if per_channel else tq.default_weight_observer
    return tq.QConfig(activation=tq.default_observer, weight=weight)


_QCONFIGS: dict[Form, Callable[[], Any]] = {
    Form.PREPARED: lambda: torchvision_qconfig(per_channel=True),
    Form.QAT: lambda: tq.get_default_qat_qconfig("fbgemm"),
    Form.INT8_CHANNEL: lambda: torchvision_qconfig(per_channel=True),
    Form.INT8_CHANNEL_DEFAULT: lambda: tq.get_default_qconfig("fbgemm"),
    Form.INT8_TENSOR: lambda: torchvision_qconfig(per_channel=False),
    Form.INT8_TENSOR_DEFAULT: lambda: tq.get_default_qconfig("qnnpack"),
}


@contextmanager
def engine(name: str) -> Iterator[None]:
    """Run with another quantized engine, and restore the old one."""
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = name
    try:
        yield
    finally:
        torch.backends.quantized.engine = before


def images(seed: int, *, batches: int = 2, batch: int = 2, size: int = IMAGE) -> list[Tensor]:
    """Draw batches of standard normal images, b c h w."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, 3, size, size, generator=generator) for _ in range(batches)]


# --- float models


def float_model(name: str, **kwargs: Any) -> nn.Module:
    """Build torchvision's float model, in eval mode, with uninitialised values."""
    return _construct(getattr(torchvision.models, name), name, kwargs)


def quantizable_model(name: str, **kwargs: Any) -> nn.Module:
    """Build torchvision's quantizable model, unfused, in eval mode, with uninitialised values."""
    return _construct(getattr(torchvision.models.quantization, name), name, {"quantize": False} | kwargs)


def _construct(factory: Callable[..., nn.Module], name: str, kwargs: dict[str, Any]) -> nn.Module:
    # On the meta device initialisation costs nothing; every value is set by whoever called.
    with torch.device("meta"):
        model = factory(**({"weights": None, "num_classes": 10} | MODELS[name].options | kwargs))
    return model.to_empty(device="cpu").eval()


def randomised_float(name: str, *, seed: int = 0, **kwargs: Any) -> nn.Module:
    """Build torchvision's float model in eval mode with every parameter, statistic and counter drawn at random.

    Weights are scaled by fan-in; statistics are measured in one forward pass in training mode and then disturbed, so that
    activations stay alive through a hundred layers, in auxiliary heads too.

    Args:
        name: a key of MODELS.
        seed: of everything that is drawn.
        kwargs: for torchvision's constructor; 10 classes unless `num_classes` is given.
    """
    model = float_model(name, **kwargs)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            _draw_parameters(module, generator)
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        _measure_statistics(model, norms, images(seed, batches=1, batch=4, size=MODELS[name].train_image)[0])
        for norm in norms:
            _disturb(norm, generator)
    return model


def _draw_parameters(module: nn.Module, generator: torch.Generator) -> None:
    if isinstance(module, nn.BatchNorm2d):
        module.weight.uniform_(0.5, 1.5, generator=generator)
        module.bias.normal_(0, 0.2, generator=generator)
    elif isinstance(module, nn.Conv2d | nn.Linear):
        fan_in = module.weight[0].numel()
        module.weight.normal_(0, math.sqrt(2 / fan_in), generator=generator)
        if module.bias is not None:
            module.bias.normal_(0, 0.1, generator=generator)
    elif any(True for _ in module.parameters(recurse=False)):
        raise TypeError(f"{type(module).__name__} has parameters that the recipe does not draw")


def _measure_statistics(model: nn.Module, norms: Sequence[nn.BatchNorm2d], batch: Tensor) -> None:
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = 1.0
    # Dropout draws from the global generator.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model.train()(batch)
    model.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def _disturb(norm: nn.BatchNorm2d, generator: torch.Generator) -> None:
    mean, var, count = norm.running_mean, norm.running_var, norm.num_batches_tracked
    if mean is None or var is None or count is None:
        raise TypeError("a batch norm without statistics")
    # A head that sees one position of few images can have channels with almost no variance.
    var.clamp_(min=0.05 * float(var.mean()))
    mean.add_(0.1 * var.sqrt() * torch.randn(mean.shape, generator=generator))
    var.mul_(torch.empty_like(var).uniform_(0.8, 1.25, generator=generator))
    count.fill_(int(torch.randint(1, 10**6, (), generator=generator)))


# --- forms


def build_form(
    name: str, form: Form, weights: State, batches: Batches = (), *, qconfig: Any = None, **kwargs: Any
) -> nn.Module:
    """Build a form by the reference recipe: float weights first, then fuse, prepare, calibrate, convert.

    Args:
        name: a key of MODELS.
        form: the form; it must run under `form.engine`.
        weights: the state dict of torchvision's float model.
        batches: calibration data, for static int8; run through a prepared or QAT-prepared model too, if given.
        qconfig: instead of the form's own.
        kwargs: for torchvision's constructor.
    """
    with engine(form.engine), warnings.catch_warnings():
        # Deprecation of torch.ao.quantization, and observers that the batches do not reach (auxiliary heads).
        warnings.simplefilter("ignore")
        if form in (Form.FLOAT, Form.DYNAMIC) or form.is_graph:
            model = float_model(name, **kwargs)
            model.load_state_dict(weights)
            if form.is_graph:
                return graph_recipes.BUILDERS[form](model, batches, images(0, batches=1)[0])
            if form is Form.DYNAMIC:
                model = tq.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
            return model
        model = quantizable_model(name, **kwargs)
        model.load_state_dict(weights)
        return _advance(model, form, batches, qconfig or form.qconfig)


def _advance(model: nn.Module, form: Form, batches: Batches, qconfig: Any) -> nn.Module:
    if form is Form.QUANTIZABLE:
        return model
    if form in (Form.FUSED_QAT, Form.QAT):
        model.train()
        fuse(model, is_qat=True)
        if form is Form.QAT:
            vars(model)["qconfig"] = qconfig
            tq.prepare_qat(model, inplace=True)
            if batches:
                calibrate(model, batches)
        return model
    fuse(model, is_qat=False)
    if form is Form.FUSED:
        return model
    vars(model)["qconfig"] = qconfig
    tq.prepare(model, inplace=True)
    if batches:
        calibrate(model, batches)
    if form is not Form.PREPARED:
        tq.convert(model, inplace=True)
    return model


def fuse(model: Any, *, is_qat: bool) -> None:
    """Call the model's own `fuse_model`."""
    model.fuse_model(is_qat=is_qat)


def calibrate(model: nn.Module, batches: Batches) -> None:
    """Show batches to a model's observers, in eval mode and without gradients."""
    training = model.training
    model.eval()
    with torch.no_grad():
        for batch in batches:
            model(batch)
    model.train(training)


def reference_form(
    source: nn.Module, name: str, form: Form, batches: Batches = (), *, qconfig: Any = None, **kwargs: Any
) -> nn.Module:
    """Build what the form of a float model must be equal to."""
    return build_form(name, form, source.state_dict(), batches, qconfig=qconfig, **kwargs)


# --- what is right


def sourced_keys(model: nn.Module, form: str = "") -> set[str]:
    """Return the keys of a form that have a float source.

    All but the keys of observers and fake-quants, and the activation ranges and constants of quantized modules.
    """
    keys = set(model.state_dict())
    if form in graph_recipes.BUILDERS:
        keys -= graph_recipes.without_source(form, keys)
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        if isinstance(module, tq.ObserverBase | tq.FakeQuantizeBase):
            keys -= {key for key in keys if key.startswith(prefix)}
        elif ".quantized." in type(module).__module__:
            keys -= {prefix + name for name in ("scale", "zero_point", "_packed_params.dtype")}
    return keys


def layers(name: str, **kwargs: Any) -> dict[str, str | None]:
    """Return the path of every convolution and linear layer, and of the batch norm that torch fuses with it, or None."""
    model = quantizable_model(name, **kwargs)
    paths = {id(module): path for path, module in model.named_modules()}
    found: dict[str, str | None] = {
        path: None for path, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)
    }
    fuse(model.train(), is_qat=True)
    # Fusing for QAT keeps the modules themselves, side by side.
    for module in model.modules():
        if isinstance(module, nni.ConvBn2d | nni.ConvBnReLU2d):
            found[paths[id(module[0])]] = paths[id(module[1])]
    return found


def dequantized_layers(model: nn.Module) -> dict[str, tuple[Tensor, Tensor | None]]:
    """Return the dequantized weight and the bias of every quantized layer of an int8 model, by path."""
    if isinstance(model, fx.GraphModule) and "_frozen_param0" in model.state_dict():
        return graph_recipes.dequantized_layers(model)
    found = {}
    for path, module in model.named_modules():
        if callable(getattr(module, "_weight_bias", None)) and not path.endswith("_packed_params"):
            weight, bias = module._weight_bias()
            found[path] = weight.dequantize(), bias
    return found


def float_reference(name: str, int8: nn.Module, own: State, **kwargs: Any) -> dict[str, Any]:
    """Make the float state dict that folds to an int8 model's dequantized weights: neutral batch norms.

    Layers that the int8 model does not have keep the destination's own values, see `lost_keys`.

    Args:
        name: a key of MODELS.
        int8: the model to go back from.
        own: the float destination's own state dict: its counters are kept.
        kwargs: for torchvision's constructor.
    """
    state = dict(own)
    quantized = dequantized_layers(int8)
    eps = _norm_eps(float_model(name, **kwargs))
    for path, norm in layers(name, **kwargs).items():
        if path not in quantized:
            continue
        weight, bias = quantized[path]
        state[f"{path}.weight"] = weight
        if bias is not None:
            state[f"{path}.bias" if norm is None else f"{norm}.bias"] = bias
        if norm is not None:
            ones = torch.ones(len(weight))
            state |= {f"{norm}.weight": ones, f"{norm}.running_mean": 0 * ones}
            state[f"{norm}.running_var"] = ones * _neutral_variance(eps[norm])
    return state


def lost_keys(name: str, int8: nn.Module, keys: Iterable[str], **kwargs: Any) -> set[str]:
    """Return which float keys belong to layers that an int8 model does not have: a head that only training runs.

    Only a graph that was exported in eval mode lacks any.
    """
    quantized = dequantized_layers(int8)
    owners = {part for path, norm in layers(name, **kwargs).items() if path not in quantized for part in (path, norm)}
    return {key for key in keys if key.rpartition(".")[0] in owners}


def _norm_eps(model: nn.Module) -> dict[str, float]:
    return {path: module.eps for path, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}


def _neutral_variance(eps: float) -> Tensor:
    """Return a variance of float32 whose sum with eps is 1 in float32."""
    var = torch.tensor(1 - eps, dtype=torch.float32)
    steps = [var, torch.nextafter(var, torch.tensor(2.0)), torch.nextafter(var, torch.tensor(0.0))]
    return next(step for step in steps if step + eps == 1)


def with_fold_factors(model: nn.Module, state: State) -> dict[str, Any]:
    """Replace every running variance by 1 / sqrt(var + eps): all that folding takes from it.

    More than one variance of float32 is neutral; which of them is no matter of right and wrong.
    """
    norms = {path: module.eps for path, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    return dict(state) | {
        f"{path}.running_var": torch.rsqrt(state[f"{path}.running_var"] + eps) for path, eps in norms.items()
    }


def refolds(name: str, filled: nn.Module, int8: nn.Module, **kwargs: Any) -> bool:
    """Tell whether torch's own fusion of a float model gives an int8 model's dequantized weights and its biases exactly."""
    fused = build_form(name, Form.FUSED, filled.state_dict(), **kwargs)
    for path, (weight, bias) in dequantized_layers(int8).items():
        module = fused.get_submodule(path)
        layer: Any = module[0] if isinstance(module, nn.Sequential) else module
        if not same_value(layer.weight.detach(), weight):
            return False
        if bias is not None and not same_value(layer.bias.detach(), bias):
            return False
    return True


def same_value(a: Any, b: Any) -> bool:
    """Tell whether two values of state dicts are equal bit for bit; quantized tensors by integers, scales and zero points.

    >>> same_value((torch.ones(2), None), (torch.ones(2), None)), same_value(torch.ones(2), torch.ones(1))
    (True, False)
    """
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.dtype != b.dtype or a.shape != b.shape:
            return False
        return _same_quantized(a, b) if a.is_quantized else _same_bits(a, b)
    if isinstance(a, tuple | list):
        return type(a) is type(b) and len(a) == len(b) and all(same_value(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and bool(a == b)


def _same_bits(a: Tensor, b: Tensor) -> bool:
    a, b = (value.detach().contiguous().reshape(-1).view(torch.uint8) for value in (a, b))
    return torch.equal(a, b)


def _same_quantized(a: Tensor, b: Tensor) -> bool:
    if a.qscheme() != b.qscheme() or not torch.equal(a.int_repr(), b.int_repr()):
        return False
    if a.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        return a.q_scale() == b.q_scale() and a.q_zero_point() == b.q_zero_point()
    return (
        a.q_per_channel_axis() == b.q_per_channel_axis()
        and _same_bits(a.q_per_channel_scales(), b.q_per_channel_scales())
        and _same_bits(a.q_per_channel_zero_points(), b.q_per_channel_zero_points())
    )


def output(model: nn.Module, batch: Tensor) -> Tensor:
    """Run a model in eval mode, without gradients, and put its mode back; an exported one as it is."""
    training = model.training
    exported = "eval" in vars(model)  # torch.export forbids the method
    if not exported:
        model.eval()
    with torch.no_grad():
        result: Tensor = model(batch)
    if not exported:
        model.train(training)
    return result


def sqnr(expected: Tensor, actual: Tensor) -> float:
    """Return the signal-to-noise ratio in dB: 20 log10(|expected| / |expected - actual|), infinite where they are equal."""
    noise = float(torch.linalg.vector_norm(expected.double() - actual.double()))
    signal = float(torch.linalg.vector_norm(expected.double()))
    return math.inf if noise == 0 else 20 * math.log10(signal / noise) if signal else -math.inf
