"""An ONNX file as a module: its initializers are the state dict, and its graph is run operator by operator by torch.

So an ONNX model is captured, matched and proven as any other model is; its file is data, and none of its code is run.

>>> import onnx.helper as oh
>>> weight = oh.make_tensor("fc.weight", 1, [2, 3], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
>>> x, y = (oh.make_tensor_value_info(name, 1, [1, size]) for name, size in (("x", 3), ("y", 2)))
>>> graph = oh.make_graph([oh.make_node("Gemm", ["x", "fc.weight"], ["y"], transB=1)], "net", [x], [y], [weight])
>>> model = OnnxModel(oh.make_model(graph, opset_imports=[oh.make_opsetid("", 21)]))
>>> list(model.state_dict()), model(torch.ones(1, 3))
(['fc.weight'], tensor([[ 6., 15.]]))
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fxmap.errors import CheckpointError, shorten
from fxmap.sources.onnx.flat import flattened, inside
from fxmap.sources.onnx.idioms import guarded_softmaxes, is_empty_mask, safe_softmax, without
from fxmap.sources.onnx.norms import Norm, kernel_chains, written_out
from fxmap.sources.onnx.numbers import numbers_of, with_number
from fxmap.sources.onnx.operators import DOMAINS, OPERATORS, constants_read_by, initial_states, unknown_in
from fxmap.sources.onnx.partial import known_part
from fxmap.sources.onnx.protos import (
    attribute_of,
    constant_nodes,
    constant_of,
    exact_tensor,
    example_of,
    is_image,
    nodes_of,
    tensor_of,
)
from fxmap.sources.onnx.quantized import (
    BORDERS,
    NOT_WRITTEN,
    cut_at_zero,
    is_quantized,
    left_out,
    read_at_once,
    zero_points,
)
from fxmap.sources.onnx.reductions import OF_OPSET
from fxmap.sources.onnx.roles import is_weight, roles_of
from fxmap.sources.onnx.shapes import OF_OUTPUTS
from fxmap.sources.onnx.turned import TO_FIRST, TO_LAST, on_maps, perm_of
from fxmap.sources.onnx.unrolled import fixed_names, unrecorded
from fxmap.sources.onnx.values import plain
from fxmap.sources.onnx.writing import has_external_data, write_onnx

_OLDEST = 9


class OnnxModel(nn.Module):
    """The graph of an ONNX model, run by torch.

    Floating-point initializers that are weights (`roles.is_weight`) are parameters, under their names in the file; others
    (shapes, axes, numbers of the code) are constants of the graph. Called with the graph's inputs in their order, or by
    name; returns its outputs, a tuple where there are several.

    Operators that are not known, or of another domain, are named in `lacking`: what lies before them is run, and what they
    would read is returned in the place of what they lead to.

    Raises:
        CheckpointError: the opset is older than 9, or nothing lies before operators that are not known.
    """

    def __init__(self, proto: Any) -> None:
        super().__init__()
        self.proto = proto = flattened(proto)
        self.external = False
        self.channels_first = False
        self._opset = max((one.version for one in proto.opset_import if one.domain in DOMAINS), default=1)
        held = {one.name for one in proto.graph.initializer}
        self._inputs = [one.name for one in proto.graph.input if one.name not in held]
        self._part = known_part(proto.graph, self._inputs, unknown_in)
        self.lacking = self._part.unknown
        self.held_inside = inside(proto.graph)
        if self._opset < _OLDEST or not self._part.outputs:
            what = (
                f"opset {self._opset}" if self._opset < _OLDEST else f"operators that are not known: {shorten(self.lacking)}"
            )
            raise CheckpointError(
                f"an ONNX model with {what}. Export it anew with opset {_OLDEST} to 23 and the operators of the standard, "
                "or map its names alone: fxmap.load(dst, state) with a dict of its initializers"
            )
        self._paths: dict[str, str] = {}
        self._constants: dict[str, Tensor] = {}
        self._masks: set[str] = set()
        self.quantized = is_quantized(nodes_of(proto.graph))
        known = {one.name: tensor_of(one) for one in proto.graph.initializer}
        # Where a graph is quantized, exporters write scales as constants, too.
        known |= constants_read_by(proto.graph, BORDERS) if self.quantized else {}
        self._zero_points = zero_points(nodes_of(proto.graph), known) if self.quantized else {}
        self._at_once = self._read_at_once(known)
        states, roles = initial_states(proto.graph), roles_of(self._left_to_run())
        for name, value in known.items():
            read = roles.get(name, set())
            is_start = name in states and not value.any()
            if is_empty_mask(name, value, read):
                self._masks.add(name)
            if name in self._paths:
                continue
            if any(kind in BORDERS for kind, _ in read):
                self._hold(name, value.long() if name in self._zero_points else value)
            elif is_start or name in self._masks or not is_weight(name, value, read):
                self._constants[name] = exact_tensor(value)
            else:
                self._hold(name, value)
        for node in self._left_to_run() if self.quantized else ():
            if (name := left_out(node)) and name not in self._paths and node.input[1] in known:
                self._hold(name, torch.zeros_like(known[node.input[1]], dtype=torch.int64))
        self._cut = cut_at_zero(proto.graph.node, known) if self.quantized else set()
        self._fixed = fixed_names(self._part.nodes, {*self._inputs, *self._paths}) if self.quantized else frozenset()
        self._guarded = guarded_softmaxes(proto.graph.node, self._constants)
        self._numbers = numbers_of(self._part.nodes, self._constants | constant_nodes(self._part.nodes))
        self._norms: dict[str, Norm] = {}
        self._biases: dict[str, str] = {}
        self._kernels: dict[str, str] = {}
        self._moved: set[str] = set()
        self._is_turned = any(perm_of(node) == TO_FIRST for node in self._part.nodes) and not self.quantized
        self._dtype = torch.float32
        branches = [node.name or "If" for node in nodes_of(proto.graph) if node.op_type == "If"]
        self.unseen_decisions = (*branches, *(f"{name}, an operator that is not known" for name in self.lacking))

    @property
    def has_written_norms(self) -> bool:
        """Whether norms that the file has written out are read as norms; their eps is 0, and no other one is meant."""
        return any(norm.factor for norm in self._norms.values())

    def read_norms(self) -> None:
        """Read norms that a source has written out as norms; in a file that is filled there is no place for a variance."""
        if self.quantized or self._norms or self._kernels:
            return
        self._read_kernels()
        held = {name: self._held(path) for name, path in self._paths.items()}
        held |= {end: held[name] for end, name in self._kernels.items()}
        self._norms = {norm.output: norm for norm in written_out(self._part.nodes, held, self._part.outputs)}
        self._biases = {norm.entry: norm.shift for norm in self._norms.values() if not norm.factor}
        for norm in self._norms.values():
            for name in filter(None, (norm.mean, norm.factor, norm.shift)):
                owner, _, last = self._paths[name].rpartition(".")
                setattr(self.get_submodule(owner), last, nn.Parameter(held[name].detach().reshape(-1), requires_grad=False))
            for name, value in norm.missing(held).items():
                self._hold(name, value)

    def _read_kernels(self) -> None:
        """Hold kernels as convolutions read them, where the graph moves them before."""
        for name, chain in kernel_chains(self._part.nodes):
            if name not in self._paths:
                continue
            values: dict[str, Any] = {**self._constants, name: self._held(self._paths[name])}
            for node in chain:
                if any(part not in values for part in node.input):
                    break
                values[node.output[0]] = self._results(node, values)[0]
            else:
                owner, _, last = self._paths[name].rpartition(".")
                value = values[chain[-1].output[0]].detach().contiguous()
                setattr(self.get_submodule(owner), last, nn.Parameter(value, requires_grad=False))
                self._kernels[chain[-1].output[0]] = name
                self._moved |= {node.output[0] for node in chain}

    def _read_at_once(self, known: Mapping[str, Tensor]) -> dict[str, str]:
        """Hold weights that are dequantized when they are read; return their names by those of the results."""
        found: dict[str, str] = {}
        for node in self._part.nodes if self.quantized else ():
            value = read_at_once(node, known)
            if value is not None:
                found[node.output[0]] = node.input[0]
                if node.input[0] not in self._paths:
                    self._hold(node.input[0], value)
        return found

    def _left_to_run(self) -> Iterator[Any]:
        """Yield the nodes that are not read at once."""
        return (node for node in nodes_of(self.proto.graph) if not self._at_once.keys() & set(node.output))

    def _hold(self, name: str, value: Tensor) -> None:
        *parents, last = name.split(".")
        owner: nn.Module = self
        if all(part and _is_free(self, part) for part in (*parents[:1], last)) and last:
            for part in parents:
                child = owner._modules.get(part)
                if child is None:
                    child = nn.Module()
                    owner.add_module(part or "_", child)
                owner = child
        else:
            parents, last = [], f"initializer {len(self._paths)}"
        if not _is_free(owner, last):
            owner, parents, last = self, [], f"initializer {len(self._paths)}"
        if value.is_floating_point():
            owner.register_parameter(last, nn.Parameter(value, requires_grad=False))
        else:
            owner.register_buffer(last, value)
        self._paths[name] = ".".join((*parents, last))

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Any:
        """Run the graph."""
        given = self._turned(dict(zip(self._inputs, args, strict=False)) | kwargs)
        lacking = [name for name in self._inputs if name not in given]
        if lacking:
            raise TypeError(f"the ONNX graph takes {', '.join(self._inputs)}; not given: {', '.join(lacking)}")
        self._refuse_other_shapes(given)
        held = {name: self._held(path) for name, path in self._paths.items()}
        floats = [value.dtype for value in (*held.values(), *given.values()) if value.is_floating_point()]
        self._dtype = max(floats, key=lambda dtype: dtype.itemsize, default=torch.float32)
        constants = {name: self._in_place(value) for name, value in self._constants.items()}
        values = self._run(self._part.nodes, {**constants, **held, **given})
        outputs = tuple(values[name] for name in self._part.outputs)
        return outputs[0] if len(outputs) == 1 else outputs

    def _refuse_other_shapes(self, given: Mapping[str, Any]) -> None:
        """Refuse inputs of other extents than the file declares: its graph may hold numbers that fit these alone.

        Raises:
            ValueError: as onnxruntime does.
        """
        for one in self.proto.graph.input:
            value = given.get(one.name)
            extents = [dim.dim_value if dim.HasField("dim_value") else 0 for dim in one.type.tensor_type.shape.dim]
            if not isinstance(value, Tensor) or not one.type.tensor_type.HasField("shape"):
                continue
            if len(extents) != value.dim() or any(n and n != m for n, m in zip(extents, value.shape, strict=True)):
                raise ValueError(
                    f"{one.name}: the file declares the shape {[n or '?' for n in extents]}, not {list(value.shape)}"
                )

    def fits(self, values: Sequence[Any]) -> bool:
        """Whether values, in the order of the inputs, have the shapes that the file declares."""
        try:
            self._refuse_other_shapes(self._turned(dict(zip(self._inputs, values, strict=False))))
        except ValueError:
            return False
        return True

    @property
    def images(self) -> tuple[str, ...]:
        """The inputs that the file declares as images with channels last, such as `[1, 224, 224, 3]`.

        With `channels_first` they are given as torch's models take them.
        """
        found = [one.name for one in self.proto.graph.input if is_image(one.type.tensor_type) and one.name in self._inputs]
        return tuple(found)

    def _turned(self, given: dict[str, Any]) -> dict[str, Any]:
        if not self.channels_first:
            return given
        return given | {name: given[name].permute(0, 2, 3, 1) for name in self.images if name in given}

    def _in_place(self, value: Tensor) -> Tensor:
        """Return a single number in the precision of the run."""
        return value.to(self._dtype) if value.dtype is torch.float64 and value.numel() == 1 else value

    def _held(self, path: str) -> Tensor:
        # A proof puts other tensors in the place of parameters.
        owner, _, last = path.rpartition(".")
        value: Tensor = getattr(self.get_submodule(owner), last)
        return value

    def _run(self, nodes: Iterable[Any], values: dict[str, Any]) -> dict[str, Any]:
        inner = self._moved.union(*(norm.inner for norm in self._norms.values()))
        values |= {end: values[name] for end, name in self._kernels.items()}
        maps: dict[str, Tensor] = {}
        for node in nodes:
            if not inner.isdisjoint(node.output):
                continue
            with unrecorded(not self._fixed.isdisjoint(node.output)):
                found = self._turned_result(node, values, maps) if self._is_turned else None
                for name, value in zip(node.output, found or self._results(node, values), strict=False):
                    values.setdefault(name, value)
        return values

    def _turned_result(self, node: Any, values: Mapping[str, Any], maps: dict[str, Tensor]) -> Sequence[Any] | None:
        """Return the results of a node that turns maps, or that computes on turned ones; None for others."""
        perm = perm_of(node)
        if perm == TO_FIRST and node.input[0] in maps:
            return (maps[node.input[0]],)
        made: Any = None
        if perm == TO_LAST:
            made = values[node.input[0]]
        elif (norm := self._norms.get(node.output[0] if node.output else "")) is not None and norm.is_last:
            made = norm(values[norm.entry], [values[name] for name in norm.names()])
        elif any(name in maps for name in node.input):
            attributes = {one.name: attribute_of(one) for one in node.attribute}
            made = on_maps(node, values, maps, attributes, lambda given, other: self._results(node, given, other)[0])
        if made is None:
            return None
        maps[node.output[0]] = made
        return (made.permute(TO_LAST),)

    def _results(self, node: Any, values: Mapping[str, Any], attributes: dict[str, Any] | None = None) -> Sequence[Any]:
        attributes = {one.name: attribute_of(one) for one in node.attribute} if attributes is None else attributes
        if (special := self._special(node, values)) is not None:
            return (special,)
        inputs: list[Any] = [values[name] if name else None for name in node.input]
        if node.output and node.output[0] in self._biases:
            inputs[2:] = [values[self._biases[node.output[0]]]]
        if node.op_type in BORDERS:
            inputs[2:] = [values[left_out(node) or node.input[2]]]
            if not left_out(node):
                attributes["output_dtype"] = self._zero_points.get(node.input[2], 0)
        if node.output[0] in self._cut:
            inputs[0] = torch.relu(inputs[0])
        if node.op_type == "Constant":
            return (self._in_place(exact_tensor(constant_of(attributes))),)
        if node.op_type == "If":
            branch = attributes["then_branch"] if bool(plain(inputs[0])) else attributes["else_branch"]
            inner = self._run(branch.node, dict(values) | {one.name: tensor_of(one) for one in branch.initializer})
            return tuple(inner[one.name] for one in branch.output)
        if node.op_type in OF_OPSET:
            found = OF_OPSET[node.op_type](*inputs, self._opset, **attributes)
        elif node.op_type in OF_OUTPUTS:
            found = OF_OUTPUTS[node.op_type](*inputs, outputs=len(node.output), **attributes)
        else:
            found = OPERATORS[node.op_type](*inputs, **attributes)
        return found if isinstance(found, tuple) else (found,)

    def _special(self, node: Any, values: Mapping[str, Any]) -> Tensor | None:
        """Return the result of a node that ends several which are read as one, or that is read at once; None for others."""
        output = node.output[0] if node.output else ""
        if output in self._at_once:
            found: Tensor = values[self._at_once[output]]
            return found
        if (norm := self._norms.get(output)) is not None:
            return norm(values[norm.entry], [values[name] for name in norm.names()])
        if (softmax := self._guarded.get(output)) is not None:
            axis = next((one.i for one in softmax.attribute if one.name == "axis"), -1)
            return safe_softmax(values[softmax.input[0]], axis)
        if node.op_type == "Add" and not self._masks.isdisjoint(node.input):
            mask, other = node.input if node.input[0] in self._masks else reversed(node.input)
            return without(values[mask], values[other])
        return with_number(node, [values.get(name) for name in node.input], self._numbers)

    def example_inputs(self) -> dict[str, Tensor]:
        """Return inputs of the shapes that the file declares; an extent that it leaves open is 2, or 64 for maps."""
        made = {one.name: example_of(one.type.tensor_type) for one in self.proto.graph.input if one.name in self._inputs}
        return made | (
            {name: made[name].permute(0, 3, 1, 2).contiguous() for name in self.images} if self.channels_first else {}
        )

    def save(self, path: str | Path, *, overwrite: bool = True) -> None:
        """Write the file anew, with the present values of the parameters, whole or not at all.

        A file whose numbers lay in another one beside it is written so again, as `NAME.data`.

        Raises:
            CheckpointError: it cannot be written, is there already and may not be overwritten, or is quantized.
        """
        if self.quantized:
            raise CheckpointError(f"{path}: {NOT_WRITTEN}")
        if self._norms or self._kernels:
            raise CheckpointError(
                f"{path}: this model was read as a source, whose weights lie otherwise; open the file anew"
            )
        values = {name: self._held(place) for name, place in self._paths.items()}
        write_onnx(self.proto, values, Path(path), external=self.external, overwrite=overwrite)


def open_onnx(path: str | Path) -> OnnxModel:
    """Read an ONNX file, with the data beside it.

    Raises:
        CheckpointError: it is no ONNX file, data beside it is missing, or an operator is not known.
        ModuleNotFoundError: the package onnx is not installed.
    """
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise CheckpointError(f"{path}: reading ONNX needs the package onnx: pip install 'fxmap[onnx]'") from error
    try:
        proto = onnx.load(str(path), load_external_data=False)
        external = has_external_data(proto)
        if external:
            onnx.load_external_data_for_model(proto, str(Path(path).parent))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except Exception as error:  # protobuf's and onnx's own kinds of errors
        raise CheckpointError(f"{path}: not an ONNX model that can be read: {type(error).__name__}: {error}") from error
    if not proto.graph.node:
        raise CheckpointError(f"{path}: not an ONNX model that can be read: it holds no operators")
    try:
        model = OnnxModel(proto)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    model.external = external
    return model


def _is_free(owner: nn.Module, name: str) -> bool:
    """Whether a name can be a parameter or a child of a module; a child that is there already can be gone into."""
    return bool(name) and "." not in name and (type(owner._modules.get(name)) is nn.Module or not hasattr(owner, name))
