"""Attacks by arguments: other objects in the place of models, state dicts, mappings, files, inputs and options."""

import random
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import fxmap
from benchmarks.faults.attack import Attack, copies, model, raw, same
from fxmap.files.writing import save

Value = Callable[[Tensor], Any]

# What a value of a state dict becomes.
_VALUES: tuple[Value, ...] = (
    *(
        lambda t: t,
        lambda t: t.to_sparse(),
        lambda t: t.to_sparse_csr(),
        lambda t: t.float().to_mkldnn(),
        lambda t: t.numpy(),
    ),
    *(lambda t: t.tolist(), nn.Parameter, lambda t: t.to("meta"), lambda t: t + 0j, lambda t: t.half(), lambda t: t.bool()),
    *(
        lambda t: t.to(torch.float8_e4m3fn),
        lambda t: t.long(),
        lambda t: t.abs().to(torch.uint16),
        lambda t: t.double() * 1e-60,
    ),
    *(lambda t: torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8), lambda t: t[..., :1].expand(t.shape)),
    *(
        lambda t: torch.nested.nested_tensor([t.flatten()]),
        torch._neg_view,
        lambda t: (t + 0j).conj(),
        lambda t: t.flatten(),
    ),
    *(lambda t: torch.zeros(0), lambda t: None, lambda t: t.untyped_storage(), lambda t: {"a": t}, lambda t: [t], str, id),
    *(
        lambda t: t.double() * 1e300,
        lambda t: t * float("nan"),
        lambda t: t.expand(3, *t.shape),
        lambda t: (t, t),
        lambda t: Path(),
    ),
    lambda t: torch.sparse_coo_tensor(torch.tensor([[1], [2]]), torch.ones(1), (10**6, 10**6)),
)
_KEYS: tuple[Any, ...] = (
    5,
    None,
    b"a",
    ("a", "b"),
    "\ud800",
    "a\nb\x1b[31m",
    "a" * 10_000,
    ".".join("a" * 999),
    "",
    ".",
    "..",
    1.5,
)


def odd_state(rng: random.Random, state: Mapping[str, Tensor]) -> Any:
    """Return a state dict some of whose keys and values are others."""
    made: dict[Any, Any] = {}
    share = rng.choice((0.2, 1.0))
    change = rng.choice(_VALUES)
    for key, value in state.items():
        try:
            made[key] = change(value) if rng.random() < share else value
        except Exception:  # torch has no such tensor of these numbers
            made[key] = value
    if rng.random() < 0.3:
        made[rng.choice(_KEYS)] = rng.choice((torch.ones(2), None, {}, "text"))
    return rng.choice((made, made, made, OrderedDict(made), {"state_dict": made}, {"a": made, "b": made}))


def odd_states(rng: random.Random, folder: Path) -> str:
    """Load, map, apply and read state dicts with values of other kinds, and other keys."""
    src, dst = model(), model()
    state = odd_state(rng, copies(src.state_dict()))
    mapping, before = fxmap.KeyMapping({key: key for key in src.state_dict()}), copies(dst.state_dict())
    calls: dict[str, Callable[[], object]] = {
        "load": lambda: fxmap.load(dst, state),
        "load with src": lambda: fxmap.load(dst, state, src=src, verify=False),
        "load_into": lambda: mapping.load_into(dst, state),
        "assign": lambda: mapping.load_into(dst, state, assign=True),
        "auto_map": lambda: fxmap.auto_map(state, dst),
        "apply": lambda: mapping.apply(state),
        "lazy": lambda: dict(mapping.lazy(state)),
    }
    return _refused(rng, calls, dst, before)


def odd_arguments(rng: random.Random, folder: Path) -> str:
    """Call every public function with another object in the place of one argument."""
    src, dst, x = model(), model(), torch.randn(2, 2, 4, 4)
    state, file = copies(src.state_dict()), folder / "a.pth"
    save(state, file)
    mapping, before = fxmap.KeyMapping({key: key for key in state}), copies(dst.state_dict())
    odd: tuple[Any, ...] = (
        *(None, 5, 1.5, True, "", "m.json", b"a", Path("nothing.pth"), folder, [], {}, (), set(), object(), print, int),
        *(nn.Linear, nn.Linear(1, 1), nn.ModuleDict(), nn.ModuleList(), torch.ones(2), np.ones(2), state, mapping, src, x),
        *({"a": 1}, {1: 2}, [torch.ones(1)], iter([]), range(3), fxmap, Exception("a"), float("nan"), "proven", 1j, ...),
        *(str(file), file, [file], [None], mapping.proof, mapping.knowledge, torch.float32, torch.device("meta"), slice(3)),
    )
    choice = rng.choice(odd)
    calls: dict[str, Callable[[], object]] = {
        "auto_map src": lambda: fxmap.auto_map(choice, dst),
        "auto_map dst": lambda: fxmap.auto_map(src, choice),
        "auto_map example_inputs": lambda: fxmap.auto_map(src, dst, example_inputs=choice),
        "auto_map dst_inputs": lambda: fxmap.auto_map(src, dst, example_inputs=x, dst_inputs=choice),
        "auto_map src_forward": lambda: fxmap.auto_map(src, dst, example_inputs=x, src_forward=choice),
        "auto_map verify": lambda: fxmap.auto_map(src, dst, verify=choice),
        "transfer src": lambda: fxmap.transfer(choice, dst, verify=False),
        "transfer dst": lambda: fxmap.transfer(src, choice, verify=False),
        "transfer into": lambda: fxmap.transfer(src, dst, into=choice, verify=False),
        "transfer calibration": lambda: fxmap.transfer(src, dst, calibration=choice, verify=False),
        "transfer on_mismatch": lambda: fxmap.transfer(src, dst, on_mismatch=choice, verify=False),
        "load file": lambda: fxmap.load(dst, choice),
        "load dst": lambda: fxmap.load(choice, file),
        "load src": lambda: fxmap.load(dst, file, src=choice, verify=False),
        "load weights": lambda: fxmap.load(dst, file, weights=choice),
        "load lora_alpha": lambda: fxmap.load(dst, file, lora_alpha=choice),
        "verify src": lambda: fxmap.verify(choice, dst, mapping, x),
        "verify mapping": lambda: fxmap.verify(src, dst, choice, x),
        "convert checkpoint": lambda: fxmap.convert(choice, folder / "out", dst=dst),
        "convert output": lambda: fxmap.convert(file, _inside(choice, folder), dst=dst),
        "convert dst": lambda: fxmap.convert(file, folder / "out", dst=choice),
        "convert dtype": lambda: fxmap.convert(file, folder / "out", dst=dst, dtype=choice),
        "convert shard_size": lambda: fxmap.convert(file, folder / "out", dst=dst, shard_size=choice),
        "verify_files source": lambda: fxmap.verify_files(choice, file, mapping),
        "verify_files mapping": lambda: fxmap.verify_files(file, file, choice),
        "KeyMapping": lambda: fxmap.KeyMapping(choice),
        "KeyMapping value": lambda: fxmap.KeyMapping({"a": choice}),
        "from_json": lambda: fxmap.KeyMapping.from_json(choice),
        "keys_with": lambda: mapping.keys_with(choice),
        "select": lambda: mapping.select(choice),
        "apply": lambda: mapping.apply(choice),
        "apply like": lambda: mapping.apply(state, like=choice),
        "lazy": lambda: mapping.lazy(choice),
        "load_into dst": lambda: mapping.load_into(choice, state),
        "load_into state": lambda: mapping.load_into(dst, choice),
        "inverse": lambda: mapping.inverse(choice),
        "to_html": lambda: mapping.to_html(_inside(choice, folder)),
        "sqnr": lambda: fxmap.sqnr(choice, torch.ones(2)),
    }
    return _refused(rng, calls, dst, before, (choice,))


def _inside(value: Any, folder: Path) -> Any:
    """Return a path inside of a folder, so that no file is written elsewhere; any other value as it is."""
    return folder / Path(value).name if isinstance(value, str | Path) else value


def _refused(
    rng: random.Random,
    calls: dict[str, Callable[[], object]],
    dst: nn.Module,
    before: dict[str, Any],
    shown: tuple[Any, ...] = (),
) -> str:
    """Make one of the calls: what is raised is fxmap's own, and leaves the destination as it was."""
    name = rng.choice(list(calls))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", fxmap.FaultWarning)
            calls[name]()
    except fxmap.InternalError as error:
        return f"{name} {shown!r}: {raw(error)}"[:300]
    except fxmap.FxmapError as error:
        if not str(error).strip() or not same(before, dst.state_dict()):
            return f"{name}: {'half written' if str(error) else 'no words'}"
    except Exception as error:
        return f"{name} {shown!r}: {raw(error)}"[:300]
    return ""


def attacks() -> Iterator[Attack]:
    """Yield the kinds of attacks by arguments."""
    yield Attack("odd state dicts", "loaded, or refused by key; never half written", odd_states)
    yield Attack("odd arguments", "an answer, or an error of fxmap that names the argument", odd_arguments)
