"""A class for an instance, and swapped arguments, are called by their name."""

from collections.abc import Callable

import pytest
from torch import nn

import fxmap

MODEL, STATE, PATH = nn.Linear(2, 2), nn.Linear(2, 2).state_dict(), "hub.pth"
MAPPING = fxmap.KeyMapping({"weight": "weight", "bias": "bias"})

CASES: list[tuple[Callable[..., object], tuple[object, ...], dict[str, object], str]] = [
    (fxmap.load, (nn.Linear, PATH), {}, r"dst is a model .*, not the class Linear: make one of it, Linear\(...\)"),
    (fxmap.load, (PATH, MODEL), {}, r"dst .* not the path 'hub.pth'. The order is fxmap.load\(dst, checkpoint_file\)"),
    (fxmap.load, (STATE, MODEL), {}, "dst .* not a OrderedDict of 2 keys, such as a state dict. The order is"),
    (fxmap.load, (MODEL, STATE), {"src": nn.Linear}, "src is a model .* not the class Linear"),
    (fxmap.load, (MODEL, STATE), {"src": PATH}, "src .* not the path 'hub.pth'. It is of the architecture"),
    (fxmap.load, (MODEL, STATE), {"src": STATE}, "src .* such as a state dict"),
    (fxmap.load, (MODEL, nn.Linear), {}, "checkpoint_file is a path or a state dict, not the class Linear"),
    (fxmap.transfer, (STATE, MODEL), {}, r"src .* such as a state dict. .* fxmap.load\(dst, checkpoint_file\)"),
    (fxmap.transfer, (nn.Linear, MODEL), {}, "src .* not the class Linear"),
    (fxmap.transfer, (MODEL, STATE), {}, r"dst .* The order is fxmap.transfer\(src, dst\)"),
    (fxmap.auto_map, (nn.Linear, MODEL), {}, "src .* not the class Linear"),
    (fxmap.auto_map, (MODEL, nn.Linear), {}, "dst .* not the class Linear"),
    (fxmap.verify, (STATE, MODEL, MAPPING), {}, "src .* such as a state dict. A file without its graph"),
    (fxmap.verify, (MODEL, nn.Linear, MAPPING), {}, "dst .* not the class Linear"),
    (fxmap.convert, (STATE, "out"), {"dst": MODEL}, "checkpoint is the path of a file or a folder, not OrderedDict"),
    (fxmap.convert, (PATH, "out"), {"dst": nn.Linear}, "dst .* not the class Linear"),
    (
        fxmap.convert,
        (PATH, "out"),
        {"dst": STATE},
        "dst .* such as a state dict. Files and state dicts are given as checkpoint",
    ),
    (fxmap.convert, (PATH, "out"), {"dst": MODEL, "src": PATH}, "src .* not the path 'hub.pth'. It is of"),
    (MAPPING.load_into, (PATH, MODEL), {}, r"dst .* not the path .* mapping.load_into\(dst, state_dict\)"),
    (MAPPING.load_into, (nn.Linear, STATE), {}, "dst .* not the class Linear"),
]


@pytest.mark.parametrize(("function", "given", "named", "said"), CASES)
def test_what_is_no_model_is_refused_with_the_next_step(
    function: Callable[..., object], given: tuple[object, ...], named: dict[str, object], said: str
) -> None:
    with pytest.raises(fxmap.ArgumentError, match=said):
        function(*given, **named)
