"""What watches operations costs no import of torch's compiler, and keeps the compiler out once somebody has imported it."""

import subprocess
import sys
from typing import Any

from fxmap.model.dispatch import DispatchMode

_PROOF = """
import sys, torch, fxmap
from torch import nn
net = lambda: nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
assert fxmap.auto_map(net(), net(), example_inputs=torch.randn(2, 4)).proof.ok
print([name for name in ("torch._dynamo", "sympy", "scipy.optimize") if name in sys.modules])
"""


def test_a_proof_imports_neither_torchs_compiler_nor_what_it_does_not_use() -> None:
    run = subprocess.run([sys.executable, "-c", _PROOF], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_the_compiler_is_kept_out_of_a_mode_once_it_is_imported() -> None:
    import torch._dynamo

    class Counting(DispatchMode):
        calls = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.calls += 1
            return func(*args, **(kwargs or {}))

    own = Counting.__torch_dispatch__
    for _ in range(2):
        with Counting() as mode:
            torch.ones(2).add(1)
        assert mode.calls == 2
        assert Counting.__torch_dispatch__.__wrapped__ is own  # type: ignore[attr-defined]
