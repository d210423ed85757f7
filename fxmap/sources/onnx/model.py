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

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fxmap.errors import CheckpointError, shorten
from fxmap.sources.onnx.as_source import read_as_source, tables_of_exporter
from fxmap.sources.onnx.contents import take_contents
from fxmap.sources.onnx.interpreter import Interpreter, Reading
from fxmap.sources.onnx.ops.operators import DOMAINS, unknown_in
from fxmap.sources.onnx.ops.quantized import NOT_WRITTEN, is_quantized
from fxmap.sources.onnx.records.flat import flattened, inside
from fxmap.sources.onnx.records.held import Held
from fxmap.sources.onnx.records.outside import OfFile, has_outside, refuse_outside, take_outside, without_numbers
from fxmap.sources.onnx.records.protos import constant_nodes, example_of, is_image, nodes_of
from fxmap.sources.onnx.records.writing import write_onnx
from fxmap.sources.onnx.spellings.partial import known_part
from fxmap.sources.onnx.spellings.scaling import Scaling, scaling_of

_OLDEST = 9


class OnnxModel(Held):
    """The graph of an ONNX model, run by torch.

    Floating-point initializers that are weights (`roles.is_weight`) are parameters, under their names in the file; others
    (shapes, axes, numbers of the code) are constants of the graph. Called with the graph's inputs in their order, or by
    name; returns its outputs, a tuple where there are several.

    Operators that are not known, or of another domain, are named in `lacking`: what lies before them is run, and what they
    would read is returned in the place of what they lead to.

    Args:
        proto: an onnx.ModelProto.
        outside: initializers whose numbers lie in a file beside it (`take_outside`), by name; None where none do.

    Raises:
        CheckpointError: the opset is older than 9, nothing lies before operators that are not known, or numbers that lie in
            another file are not given.
    """

    def __init__(self, proto: Any, outside: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        if outside is None:
            refuse_outside(proto)
        proto = flattened(proto)
        self._file = OfFile(proto, dict(outside or {}))
        self.external = outside is not None
        self.channels_first = False
        self.left_out: tuple[Scaling, ...] = ()
        self.of_code: tuple[str, ...] = ()
        held = {one.name for one in proto.graph.initializer}
        self._inputs = [one.name for one in proto.graph.input if one.name not in held]
        self._part = known_part(proto.graph, self._inputs, unknown_in)
        self.lacking = self._part.unknown
        self.held_inside = inside(proto.graph)
        opset = max((one.version for one in proto.opset_import if one.domain in DOMAINS), default=1)
        if opset < _OLDEST or not self._part.outputs:
            unknown = f"operators that are not known: {shorten(self.lacking)}"
            unread = unknown if self.lacking else "outputs of which none is made"
            what = f"opset {opset}" if opset < _OLDEST else unread
            raise CheckpointError(
                f"an ONNX model with {what}. Export it anew with opset {_OLDEST} to 23 and the operators of the standard, "
                "or map its names alone: fxmap.load(dst, state) with a dict of its initializers"
            )
        self.quantized = is_quantized(nodes_of(proto.graph))
        self._reading = Reading(opset)
        self._constants = take_contents(
            self, self._reading, proto.graph, self._part, self._inputs, self.quantized, self._file.outside
        )
        branches = [node.name or "If" for node in nodes_of(proto.graph) if node.op_type == "If"]
        self.unseen_decisions = (*branches, *(f"{name}, an operator that is not known" for name in self.lacking))

    @property
    def proto(self) -> Any:
        """The onnx.ModelProto; `open_onnx` leaves the numbers of weights out of it, which the model holds."""
        return self._file.proto

    @property
    def mapped(self) -> int:
        """How many numbers lie in files beside the model, and are read where they are used."""
        return sum(value.numel() for value in self._file.outside.values())

    @property
    def has_written_norms(self) -> bool:
        """Whether norms that the file has written out are read as norms, whose eps is made up."""
        return any(norm.factor for norm in self._reading.norms.values())

    def read_as_source(self) -> None:
        """Read what the exporter computed beforehand as models have it; such a model is not written anew."""
        if not self.quantized and not self._is_read_as_source:
            read_as_source(self, self._reading, self._constants, self._part.nodes, self._part.outputs)

    def scalings(self) -> tuple[Scaling, ...]:
        """Return what scales images before anything else reads them."""
        images = [one.name for one in self.proto.graph.input if len(one.type.tensor_type.shape.dim) == 4]
        numbers = self._constants | constant_nodes(self._part.nodes) | {name: self.held(name) for name in self.paths}
        found = (scaling_of(self._part.nodes, name, numbers) for name in images if name in self._inputs)
        return tuple(one for one in found if one is not None)

    def leave_out_scaling(self) -> None:
        """Take images as they come of what scales them; its numbers are no keys then."""
        for scaling in () if self.left_out else self.scalings():
            self._reading.entries[scaling.results[-1]] = scaling.entry
            self._reading.left_out |= set(scaling.results)
            self._constants |= {name: self.release(name) for name in scaling.tensors if name in self.paths}
            self.left_out = (*self.left_out, scaling)

    def take_as_code(self, names: Iterable[str], also: Collection[str] = ()) -> tuple[str, ...]:
        """Hold tables no longer whose names the exporter made up: they are numbers of the code, as the file has them.

        Returns those of some names of which that holds, or which are in `also`; layers read none of them as a weight.
        """
        free = tables_of_exporter(names, also, self.proto.graph, self._part.nodes, self._reading)
        taken = tuple(name for name in free if self.paths.get(name) == name)
        self._constants |= {name: self.release(name) for name in taken}
        self.of_code = (*self.of_code, *taken)
        return taken

    def give_back(self, names: Iterable[str]) -> None:
        """Hold tables again that were taken as numbers of the code."""
        for name in names:
            self.hold(name, self._constants.pop(name))
            self.of_code = tuple(one for one in self.of_code if one != name)

    @property
    def _is_read_as_source(self) -> bool:
        reading = self._reading
        return bool(reading.norms or reading.kernels or reading.repeated or reading.twins or self.left_out or self.of_code)

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Any:
        """Run the graph."""
        as_given = dict(zip(self._inputs, args, strict=False)) | kwargs
        given = self._turned(as_given)
        lacking = [name for name in self._inputs if name not in given]
        if lacking:
            raise TypeError(f"the ONNX graph takes {', '.join(self._inputs)}; not given: {', '.join(lacking)}")
        self._refuse_other_shapes(given)
        held = {name: self.held(name) for name in self.paths}
        floats = [value.dtype for value in (*held.values(), *given.values()) if value.is_floating_point()]
        interpreter = Interpreter(self._reading, max(floats, key=lambda dtype: dtype.itemsize, default=torch.float32))
        constants = {name: interpreter.in_place(value) for name, value in self._constants.items()}
        maps = {name: as_given[name] for name in self.images} if self.channels_first else {}
        values = interpreter.run(self._part.nodes, {**constants, **held, **given}, maps)
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
        if self._is_read_as_source:
            raise CheckpointError(
                f"{path}: this model was read as a source, whose weights lie otherwise; open the file anew"
            )
        values = self._file.outside | {name: self.held(name) for name in self.paths}
        write_onnx(self.proto, values, Path(path), external=self.external, overwrite=overwrite)


def open_onnx(path: str | Path) -> OnnxModel:
    """Read an ONNX file; weights that lie in a file beside it are views of that file, which is read where they are used.

    Raises:
        CheckpointError: it is no ONNX file, data beside it is missing, too short or elsewhere, or an operator is not known.
        ModuleNotFoundError: the package onnx is not installed.
    """
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise CheckpointError(f"{path}: reading ONNX needs the package onnx: pip install 'fxmap[onnx]'") from error
    try:
        proto = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's and onnx's own kinds of errors
        raise CheckpointError(f"{path}: not an ONNX model that can be read: {type(error).__name__}: {error}") from error
    if not proto.graph.node:
        raise CheckpointError(f"{path}: not an ONNX model that can be read: it holds no operators")
    try:
        outside = take_outside(proto, Path(path)) if has_outside(proto) else None
        model = OnnxModel(proto, outside)
    except (CheckpointError, OSError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    without_numbers(model.proto.graph, model.paths)
    return model
