"""A fine-tuned float Inception-v3 into torchvision's quantizable model, and into its int8 form.

Loaded as torchvision does it, this ends with `KeyError: 'Conv2d_1a_3x3.conv.bias'`: the int8 model has no batch norm, its
convolutions have a bias, and its activations have ranges that no float checkpoint holds.

Needs: fxmap alone. Run it: python examples/user_case.py
"""

import torch
import torchvision

import fxmap

SIZE = 80  # 299 in earnest


def float_model() -> torch.nn.Module:
    """Return the architecture of float.pth: Inception-v3 with a head for two classes."""
    model: torch.nn.Module = torchvision.models.inception_v3(weights=None, aux_logits=False, init_weights=False)
    model.fc = torch.nn.Linear(2048, 2)
    return model.eval()


def quantizable(quantize: bool) -> torch.nn.Module:
    """Return torchvision's quantizable Inception-v3, still float or already int8."""
    build = torchvision.models.quantization.inception_v3
    model: torch.nn.Module = build(weights=None, quantize=quantize, num_classes=2, aux_logits=False, init_weights=False)
    return model.eval()


torch.manual_seed(0)
trained = float_model()  # in earnest: your training
torch.save(trained.state_dict(), "float.pth")
images = [torch.randn(2, 3, SIZE, SIZE) for _ in range(2)]  # in earnest: a few dozen of your own, in batches

int8 = quantizable(quantize=True)
mapping = fxmap.load(int8, "float.pth", src=float_model(), calibration=images, example_inputs=images[0])
print(mapping.summary())
assert mapping.ok
print(mapping["Conv2d_1a_3x3.conv.bias"])  # the batch norm, folded
loss = fxmap.sqnr(trained(images[0]), int8(images[0]))
print(f"as int8: {loss:.1f} dB above its quantization noise")

# The quantizable model before it is fused has the float model's own names; a proof would take as long again.
mapping = fxmap.load(quantizable(quantize=False), "float.pth", src=float_model(), verify=False)
print(len(mapping), "keys of the float model in the quantizable one, of which", len(mapping.missing), "are missing")
