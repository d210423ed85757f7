"""A torch from which torch.ao.quantization was removed: everything else works."""

import subprocess
import sys

SCRIPT = """
import sys

class Removed:
    def find_spec(self, name, path=None, target=None):
        if name == "torch.ao" or name.startswith("torch.ao."):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

import torch
for name in [name for name in sys.modules if name == "torch.ao" or name.startswith("torch.ao.")]:
    del sys.modules[name]
vars(torch).pop("ao", None)
sys.meta_path.insert(0, Removed())

import tempfile
from pathlib import Path
from torch import nn
import fxmap
from fxmap.files.writing import save

src = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU6(), nn.Flatten(), nn.Linear(4, 2)).eval()
dst = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU6(), nn.Flatten(), nn.Linear(4, 2)).eval()
x = torch.randn(2, 3, 3, 3)
mapping = fxmap.transfer(src, dst, example_inputs=x)
assert torch.allclose(src(x), dst(x), atol=1e-5)
assert mapping.proof.forwards, mapping
assert fxmap.KeyMapping.from_json(mapping.to_json()) == mapping
with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "a.safetensors"
    save(src.state_dict(), file)
    fxmap.load(nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU6(), nn.Flatten(),
                             nn.Linear(4, 2)), file)
lstm = nn.LSTM(3, 4), nn.LSTM(3, 4)
fxmap.transfer(*lstm, example_inputs=torch.randn(5, 2, 3))
try:
    fxmap.transfer(src, dst, calibration=[x], example_inputs=x)
except fxmap.QuantizationError as error:
    assert "no activation ranges" in str(error)
else:
    raise AssertionError("calibration of a float model was accepted")
assert not any(name.startswith("torch.ao.") for name in sys.modules)
print("done")
"""


def test_everything_else_works() -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "done"
