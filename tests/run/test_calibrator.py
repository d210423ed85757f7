"""Calibration: statistics are measured in the run, and what was given stays as it is."""

import torch
from torch import nn

from fxmap.capture.symbolic import capture_symbolic
from fxmap.model.tensors import tensors_of
from fxmap.normalize.network import Network
from fxmap.run.calibrator import run_calibrated
from fxmap.run.interpreter import ValueInterpreter
from fxmap.run.randomize import random_tensors


def _network() -> Network:
    norm = nn.BatchNorm1d(4)
    return Network.of(capture_symbolic(nn.Sequential(nn.Linear(4, 4), norm, nn.ReLU(), norm)))


def _run() -> tuple[Network, dict[str, torch.Tensor], dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    network, generator = _network(), torch.Generator().manual_seed(0)
    drawn = random_tensors(network, generator)
    x = 50 + torch.randn(16, 4, generator=generator, dtype=torch.float64)
    calibrated, output = run_calibrated(network, drawn, [x], generator)
    return network, drawn, calibrated, x, output


def test_the_given_tensors_keep_their_values() -> None:
    network, drawn, calibrated, _, _ = _run()
    assert drawn.keys() == calibrated.keys()
    changed = {path for path in drawn if not torch.equal(drawn[path], calibrated[path])}
    assert {path.rpartition(".")[2] for path in changed} == {"running_mean", "running_var"}
    again = random_tensors(network, torch.Generator().manual_seed(0))
    assert all(torch.equal(drawn[path], again[path]) for path in drawn)


def test_a_norm_that_is_used_twice_keeps_the_statistics_of_its_first_use() -> None:
    network, _, calibrated, x, output = _run()
    assert torch.equal(tensors_of(ValueInterpreter(network, calibrated).run(x))[0], output)


def test_a_tensor_with_two_paths_stays_one() -> None:
    _, _, calibrated, _, _ = _run()
    assert calibrated["1.running_mean"] is calibrated["3.running_mean"]


def test_a_norm_of_one_number_for_each_channel_keeps_it() -> None:
    norm = Network.of(capture_symbolic(nn.BatchNorm2d(6, affine=False)))
    own = {"running_mean": torch.zeros(6).double(), "running_var": torch.ones(6).double()}
    x = 100 * torch.randn(1, 6, 1, 1, dtype=torch.float64)
    _, output = run_calibrated(norm, own, [x], torch.Generator().manual_seed(0))
    assert float(output.abs().mean()) > 0.1  # with its own mean, rounding would be left
