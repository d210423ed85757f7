"""Three mappers that look at nothing but names, shapes and order: a mapper that is no better is of no use."""

from collections import defaultdict, deque
from collections.abc import Callable, Mapping

from torch import Tensor

State = Mapping[str, Tensor]


def same_name_and_shape(src: State, dst: State) -> dict[str, Tensor]:
    """Copy what has the same name and shape."""
    return {key: src[key] for key, value in dst.items() if key in src and src[key].shape == value.shape}


def next_of_same_shape(src: State, dst: State) -> dict[str, Tensor]:
    """Copy the next tensor of the same shape, in the order of registration."""
    queues: dict[tuple[int, ...], deque[Tensor]] = defaultdict(deque)
    for value in _counted(src).values():
        queues[tuple(value.shape)].append(value)
    return {key: queue.popleft() for key, value in _counted(dst).items() if (queue := queues[tuple(value.shape)])}


def registration_order(src: State, dst: State) -> dict[str, Tensor]:
    """Copy the nth tensor to the nth, where the shapes are equal."""
    pairs = zip(_counted(dst).items(), _counted(src).values(), strict=False)
    return {key: value for (key, own), value in pairs if own.shape == value.shape}


def _counted(state: State) -> State:
    return {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}


CONTROLS: dict[str, Callable[[State, State], dict[str, Tensor]]] = {
    "same name and shape": same_name_and_shape,
    "next of the same shape": next_of_same_shape,
    "registration order": registration_order,
}
