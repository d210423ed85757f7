"""A recorded run: the source of graphs that captures every model that runs.

The model is run once on example inputs under a dispatch mode that adds every aten operation to an fx graph. A recording is
valid for the shapes of these inputs. Where code writes in place to memory that other tensors share, the run is recorded
again, under functionalization.
"""

import logging
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fxmap.capture.captured import Captured
from fxmap.capture.functional import as_it_is, functional, unwrapped
from fxmap.capture.recorder import Recorder, Recording
from fxmap.capture.recurrent import Unrolled
from fxmap.capture.rewrites.contract import CONTRACT
from fxmap.capture.rewrites.driver import sweep
from fxmap.capture.rewrites.frozen import restore_norms
from fxmap.capture.rewrites.real_parts import as_real_parts
from fxmap.capture.rewrites.regroup import REGROUP
from fxmap.capture.rewrites.writes import AS_STRIDED, RANGES, STACKS, as_reshapes, value_rules
from fxmap.capture.source import GraphSource
from fxmap.errors import CaptureError
from fxmap.model.faults import said
from fxmap.model.inputs import Inputs, described
from fxmap.model.memory import on_own_memory
from fxmap.model.replica import run_fresh, tensors_by_path, unchanged
from fxmap.model.restoring import carry_out, let_through
from fxmap.model.tensors import as_nested, plain

logger = logging.getLogger(__name__)


def capture_run(replica: nn.Module, inputs: Inputs | None) -> Captured:
    """Capture a replica by recording a run on inputs; the replica is switched to eval mode.

    Raises:
        CaptureError: the replica does not run on the inputs.
    """
    assert inputs is not None
    replica.eval()
    tensors = tensors_by_path(replica)
    recording = record(replica, tensors, inputs)
    return Captured(
        replica,
        recording.graph,
        tensors,
        RECORDED.name,
        recording.constants,
        inputs,
        recording.returned,
        tuple(dict.fromkeys(recording.mutations)),
    )


RECORDED = GraphSource("recorded run", capture_run, needs_inputs=True)


def record(replica: nn.Module, tensors: Mapping[str, Tensor], inputs: Inputs) -> Recording:
    """Run a replica on its inputs and record the graph; a second, functional run follows if in-place writes remain.

    Args:
        replica: a replica in eval mode; hooks are added to it for the run, and removed afterwards.
        tensors: its parameters and buffers by path.
        inputs: the inputs to call it with, see `fxmap.model.inputs.Inputs`.

    Raises:
        CaptureError: the model does not run on these inputs.
    """
    state, inputs = torch.get_rng_state(), inputs.copied()
    try:
        recording = _run(replica, tensors, inputs)
    except Exception as error:  # whatever a model raises on inputs that do not fit it
        let_through(error)
        what = f"{type(error).__name__}: {said(error)}{_where(error)}"
        raise CaptureError(f"{type(replica).__name__} does not run on {described(inputs)}: {what}") from error
    if recording.mutations:
        torch.set_rng_state(state)  # random numbers as before
        recording = _without_writes(replica, tensors, inputs, recording)
    _rewrite(recording, tensors)
    return recording


def _rewrite(recording: Recording, tensors: Mapping[str, Tensor]) -> None:
    """Rewrite a recorded graph by the rules for all recordings, and by those for writes if it was recorded functionally."""
    graph = recording.graph
    # With as_strided, the memory layout must stay unchanged.
    recording.functional &= not any(node.target in AS_STRIDED for node in graph.nodes)
    written = (RANGES, STACKS) if recording.functional else ()
    for rules in (value_rules(recording.constants), *written, CONTRACT, REGROUP, ()):
        replaced = sweep(graph, tensors, rules) if rules else _spelled_out(recording, tensors)
        if recording.functional:
            for path, names in recording.returned.items():
                recording.returned[path] = [replaced.get(name, name) for name in names]
    if recording.functional:
        graph.eliminate_dead_code()  # views that were taken anew
        as_reshapes(graph)


def _spelled_out(recording: Recording, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Restore frozen norms and real arithmetic, unless something may be written to between what they are made of."""
    if recording.mutations and not recording.functional:
        return {}
    return as_real_parts(recording.graph, tensors) | restore_norms(recording.graph, tensors)


def _run(
    replica: nn.Module, tensors: Mapping[str, Tensor], inputs: Inputs, keep: Callable[..., Any] = as_it_is
) -> Recording:
    """Record one run; replica and inputs are unchanged afterwards."""

    def run() -> Recording:
        recorder = Recorder(inputs.flat(), tensors)
        try:
            with _modules(replica, recorder), torch.no_grad(), Unrolled(), recorder:
                # Some models compute tables from their parameters when they are switched to eval.
                replica.eval()
                with keep(replica, inputs) as kept:
                    output = as_nested(kept.call(replica), unwrapped)
            recorder.finish(output)
        finally:
            recorder.undo()
        return recorder.recording

    with unchanged(replica):
        return on_own_memory(replica, lambda: run_fresh(replica, run))


def _without_writes(replica: nn.Module, tensors: Mapping[str, Tensor], inputs: Inputs, written: Recording) -> Recording:
    """Record a run under functionalization, so that no in-place write remains; if that fails, return `written` unchanged."""
    name, state = type(replica).__name__, torch.get_rng_state()
    for keep in (functional, partial(functional, parameters=True)):
        torch.set_rng_state(state)
        try:
            recording = _run(replica, tensors, inputs, keep)
        except Exception as error:  # whatever torch raises where code writes to a tensor that is not functional
            let_through(error)
            logger.info("%s cannot be recorded functionally: %s", name, error)
            continue
        if not recording.mutations and _agree(recording.outputs, written.outputs):
            recording.functional = True
            return recording
        logger.info("%s writes in place what a functional recording does not show", name)
    return written


def _agree(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> bool:
    """Whether two runs of a model on the same inputs gave equal outputs; on the meta device, only shapes are compared."""
    return len(ours) == len(theirs) and all(
        a.shape == b.shape and (a.is_meta or torch.allclose(a, b.to(a.dtype), rtol=1e-4, atol=1e-6, equal_nan=True))
        for a, b in zip(map(plain, ours), map(plain, theirs), strict=True)
    )


def _where(error: BaseException) -> str:
    """Name the line of the user's own code at which a run failed: the last frame outside of all libraries."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not any(part in frame.filename for part in _LIBRARIES)]
    return f" (in {own[-1].filename}:{own[-1].lineno}: {own[-1].line})" if own and own[-1].line else ""


_LIBRARIES = (f"{Path(torch.__file__).parent}", f"{Path(__file__).parents[1]}")


@contextmanager
def _modules(replica: nn.Module, recorder: Recorder) -> Iterator[None]:
    """Tell the recorder which module is running."""
    stack: list[str] = []
    handles = []

    def enter(path: str) -> Any:
        def hook(*_: Any) -> None:
            stack.append(path)
            recorder.module = path

        return hook

    def leave(_: nn.Module, __: Any, output: Any) -> None:
        recorder.note(stack.pop(), unwrapped(output))
        recorder.module = stack[-1] if stack else ""

    for path, module in replica.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue  # it takes no hooks
        handles += [module.register_forward_pre_hook(enter(path)), module.register_forward_hook(leave, always_call=True)]
    try:
        yield
    finally:
        carry_out(handle.remove for handle in handles)
