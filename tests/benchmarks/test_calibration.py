"""The benchmark of ranges, on a network that was not trained and small images."""

import pytest
import torch

from benchmarks.calibration import command as calibration
from benchmarks.calibration.command import DISTILLED, REAL, SGD, Trained
from fxmap.cli.demo.data import Digits
from fxmap.testing import compare
from fxmap.testing.recipes import forms, models


def untrained(name: str) -> Trained:
    model = models.randomised_float(name, seed=1, num_classes=calibration.CLASSES)
    images = torch.cat(models.images(3, batches=1, batch=96, size=16))
    labels = torch.zeros(len(images), dtype=torch.long)
    data = Digits(images[:64], labels[:64], images[64:], labels[64:])
    return Trained(name, SGD, model, data, compare.output(model, data.held_out_images))


def test_every_way_is_compared_with_the_float_network() -> None:
    rows = list(calibration.measure(untrained("resnet18")))
    assert [row.calibration for row in rows] == ["int8 weights alone", REAL, DISTILLED]
    weights, real, distilled = (row.sqnr or 0.0 for row in rows)
    assert weights > real > 10
    assert distilled > 10
    assert [row.images for row in rows] == [None, 64, None]
    assert (rows[2].seconds or 0) > 0


def test_eight_bits_use_every_integer_and_torchvisions_observer_does_not() -> None:
    for qconfig, last in ((calibration.eight_bits(), 255), (forms.torchvision_qconfig(per_channel=True), 127)):
        observer = qconfig.activation()
        observer(torch.tensor([0.0, 1.0]))
        scale, _ = observer.calculate_qparams()
        assert float(1 / scale) == pytest.approx(last)


def test_digits_are_split() -> None:
    pytest.importorskip("sklearn")
    data = calibration.digits()
    assert len(data.images) == len(data.labels) == calibration.TRAINED_ON
    assert data.held_out_images.shape == (357, 3, 80, 80)
    assert (float(data.images.min()), float(data.images.max())) == (-1, 1)
