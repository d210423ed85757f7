"""A classifier's checkpoint into the backbone of a detector: its head is left in the file, the detector's own parts stay.

Needs: fxmap alone. Run it: python examples/detector_backbone.py
"""

import torch
import torchvision
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

import fxmap

torch.manual_seed(0)
classifier = torchvision.models.resnet18(num_classes=5).eval()  # in earnest: what you trained
torch.save(classifier.state_dict(), "classifier.pth")

backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None, norm_layer=torch.nn.BatchNorm2d)
detector = FasterRCNN(backbone, num_classes=2)
neck = detector.backbone.fpn.inner_blocks[0][0].weight.clone()

# `into` says which part of the detector is meant; all keys of the mapping begin with it.
mapping = fxmap.load(
    detector, "classifier.pth", src=classifier, into="backbone.body", example_inputs=torch.randn(1, 3, 64, 64)
)
print(mapping.summary())
print("left in the file:", mapping.left_in_file)
assert mapping.ok
assert torch.equal(detector.backbone.body.layer1[0].conv1.weight, classifier.layer1[0].conv1.weight)
assert torch.equal(detector.backbone.fpn.inner_blocks[0][0].weight, neck)  # no part of the classifier, and untouched
