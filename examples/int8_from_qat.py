"""A checkpoint of quantization-aware training (QAT) into the int8 model: weights, and the ranges that training has found.

Needs: fxmap alone. Run it: python examples/int8_from_qat.py
"""

import torch
import torchvision
from torch import nn
from torch.ao import quantization

import fxmap

BACKEND = "qnnpack" if "fbgemm" not in torch.backends.quantized.supported_engines else "fbgemm"
torch.backends.quantized.engine = BACKEND


def prepared() -> nn.Module:
    """Return a ResNet-18 with fake-quantize modules, as QAT trains it."""
    model: nn.Module = torchvision.models.quantization.resnet18(weights=None, quantize=False, num_classes=4)
    model.train().fuse_model(is_qat=True)  # type: ignore[operator]
    model.qconfig = quantization.get_default_qat_qconfig(BACKEND)
    quantization.prepare_qat(model, inplace=True)
    return model


torch.manual_seed(0)
images = torch.randn(4, 3, 32, 32)
trained = prepared()
optimizer = torch.optim.SGD(trained.parameters(), lr=0.01)
for _ in range(2):  # in earnest: your training
    optimizer.zero_grad()
    nn.functional.cross_entropy(trained(images), torch.arange(4)).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
torch.save(trained.eval().state_dict(), "qat.pth")

# The int8 model, as another program builds it: fused, converted, and empty.
dst = torchvision.models.quantization.resnet18(weights=None, quantize=True, num_classes=4)
mapping = fxmap.load(dst, "qat.pth", src=prepared().eval(), example_inputs=images)
print(mapping.summary())
assert mapping.ok
usual = quantization.convert(trained)  # what torch makes of the trained model itself
print("equal to torch's own conversion, bit for bit:", torch.equal(usual(images), dst(images)))
