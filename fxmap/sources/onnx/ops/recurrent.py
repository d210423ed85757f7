"""ONNX's recurrent operators, run by torch's, which order the gates in another way: https://onnx.ai/onnx/operators/."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

# For each gate of torch, its place in ONNX: torch has i f g o and r z n, ONNX i o f c and z r h.
_LSTM, _GRU, _RNN = (0, 2, 3, 1), (1, 0, 2), (0,)


def _weights(w: Tensor, r: Tensor, b: Tensor | None, gates: Sequence[int], hidden: int) -> list[Tensor]:
    """Return torch's weights of every direction: input, hidden, and their biases."""

    def ordered(rows: Tensor) -> Tensor:
        return torch.cat([rows[place * hidden : (place + 1) * hidden] for place in gates])

    found = []
    for direction in range(w.shape[0]):
        found += [ordered(w[direction]), ordered(r[direction])]
        if b is not None:
            ours, theirs = b[direction].chunk(2)
            found += [ordered(ours), ordered(theirs)]
    return found


def _plain(name: str, lengths: Tensor | None, options: dict[str, Any], allowed: Sequence[str]) -> None:
    if lengths is not None or options.get("layout", 0) or options.get("clip") is not None:
        raise NotImplementedError(f"{name} with sequence lengths, a clip, or batches first")
    activations = [one.lower() for one in options.get("activations", ())]
    if activations and activations != list(allowed) * (len(activations) // len(allowed)):
        raise NotImplementedError(f"{name} with the activations {activations}")


def _zeros(given: Tensor | None, w: Tensor, x: Tensor, hidden: int) -> Tensor:
    return x.new_zeros(w.shape[0], x.shape[1], hidden) if given is None else given


def _outputs(y: Tensor, directions: int) -> Tensor:
    # [time, batch, directions * hidden] to [time, directions, batch, hidden].
    return y.reshape(*y.shape[:2], directions, -1).transpose(1, 2)


def _backwards(direction: str) -> bool:
    return direction == "reverse"


def _lstm(
    x: Tensor, w: Tensor, r: Tensor, b: Tensor | None = None, lengths: Tensor | None = None, h: Tensor | None = None,
    c: Tensor | None = None, p: Tensor | None = None, *, hidden_size: int = 0, direction: str = "forward",
    input_forget: int = 0, **options: Any,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    _plain("LSTM", lengths, options, ("sigmoid", "tanh", "tanh"))
    if p is not None or input_forget:
        raise NotImplementedError("LSTM with peepholes or coupled gates")
    hidden = hidden_size or r.shape[-1]
    state = [_zeros(h, w, x, hidden), _zeros(c, w, x, hidden)]
    weights = _weights(w, r, b, _LSTM, hidden)
    steps = x.flip(0) if _backwards(direction) else x
    y, hn, cn = torch.lstm(steps, state, weights, b is not None, 1, 0.0, False, direction == "bidirectional", False)
    return _outputs(y.flip(0) if _backwards(direction) else y, w.shape[0]), hn, cn


def _gru(
    x: Tensor, w: Tensor, r: Tensor, b: Tensor | None = None, lengths: Tensor | None = None, h: Tensor | None = None, *,
    hidden_size: int = 0, direction: str = "forward", linear_before_reset: int = 0, **options: Any,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    _plain("GRU", lengths, options, ("sigmoid", "tanh"))
    if not linear_before_reset:
        raise NotImplementedError("GRU with linear_before_reset=0, which torch's does not compute")
    hidden = hidden_size or r.shape[-1]
    weights, start = _weights(w, r, b, _GRU, hidden), _zeros(h, w, x, hidden)
    steps = x.flip(0) if _backwards(direction) else x
    y, hn = torch.gru(steps, start, weights, b is not None, 1, 0.0, False, direction == "bidirectional", False)
    return _outputs(y.flip(0) if _backwards(direction) else y, w.shape[0]), hn


def _rnn(
    x: Tensor, w: Tensor, r: Tensor, b: Tensor | None = None, lengths: Tensor | None = None, h: Tensor | None = None, *,
    hidden_size: int = 0, direction: str = "forward", **options: Any,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    relu = "relu" in [one.lower() for one in options.get("activations", ())]
    _plain("RNN", lengths, options, ("relu",) if relu else ("tanh",))
    hidden = hidden_size or r.shape[-1]
    weights, start = _weights(w, r, b, _RNN, hidden), _zeros(h, w, x, hidden)
    run = torch.rnn_relu if relu else torch.rnn_tanh
    steps = x.flip(0) if _backwards(direction) else x
    y, hn = run(steps, start, weights, b is not None, 1, 0.0, False, direction == "bidirectional", False)
    return _outputs(y.flip(0) if _backwards(direction) else y, w.shape[0]), hn


RECURRENT: dict[str, Callable[..., Any]] = {"GRU": _gru, "LSTM": _lstm, "RNN": _rnn}
