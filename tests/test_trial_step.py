"""What a trial step tells of a network, and that it leaves no trace."""

import os
import pathlib
import subprocess
import sys

import pytest
import torch
from runners import SCRIPTS
from torch import nn
from trainings import GREY, Drawing, random_split, separable, state_bytes

from elagage.errors import UserError
from elagage.pytorch.models import Normalize
from elagage.pytorch.qat import prepare
from elagage.pytorch.trial_step import _SlicedStrides, check_training, has_narrow_convolution


class NoGradients(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 2)

    def forward(self, images):
        return self.linear(images.flatten(1)).detach()


def test_a_network_without_a_backward_pass_is_named():
    with pytest.raises(UserError, match=r"backward pass raised RuntimeError: .*has to have gradients"):
        check_training(NoGradients(), Normalize(GREY), separable(4).images)


def test_a_trial_step_changes_neither_network_nor_random_states():
    network = Drawing()
    before, draws = state_bytes(network.state_dict()), torch.get_rng_state()
    check_training(network, Normalize(GREY), random_split(4).images)
    assert state_bytes(network.state_dict()) == before
    assert torch.equal(torch.get_rng_state(), draws)


class Narrow(nn.Module):
    """A 1x1 convolution with a stride: of so many channels, of groups, or as a function."""

    def __init__(
        self,
        channels: int = 1,
        stride: int = 2,
        kernel: int = 1,
        groups: int = 1,
        *,
        padding: int = 0,
        functional: bool = False,
    ):
        super().__init__()
        self.wide = nn.Conv2d(1, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.narrow = nn.Conv2d(channels, 48, kernel, stride, padding, groups=groups)
        self.linear = nn.Linear(48, 3)
        self.functional = functional

    def forward(self, x):
        x = self.norm(self.wide(x))
        if self.functional:
            x = nn.functional.conv2d(x, self.narrow.weight, stride=self.narrow.stride)
        else:
            x = self.narrow(x)
        return self.linear(x.mean((2, 3)))


@pytest.mark.parametrize("channels", [1, 3, 7, 12])
def test_narrow_convolutions_are_trained_without_writing_beyond_their_gradient(channels):
    """In a process of its own, which PyTorch killed: its gradients, too, are those of float64."""
    script = f"""
import copy, numpy, sys, torch
from elagage.data import Dataset
from elagage.pytorch.models import Normalize
from elagage.pytorch.trial_step import check_training
sys.path.insert(0, {str(pathlib.Path(__file__).parent)!r})
from test_trial_step import Narrow

torch.manual_seed(0)
network = Narrow({channels})
network.to(memory_format=torch.channels_last)
pixels = torch.randn(4, 1, 32, 32)
grey = Normalize(Dataset("toy", ["a", "b", "c"], 1, 32, [0.5], [0.25], False, {{}}, {{}}))
context = check_training(network, grey, numpy.zeros((2, 1, 32, 32), numpy.uint8))
for _ in range(30):
    network.zero_grad()
    with context():
        network(pixels.contiguous(memory_format=torch.channels_last)).square().sum().backward()
exact = copy.deepcopy(network).double()
exact.zero_grad()
exact(pixels.double()).square().sum().backward()
torch.testing.assert_close(network.narrow.weight.grad.double(), exact.narrow.weight.grad, rtol=1e-3, atol=1e-4)
"""
    subprocess.run([sys.executable, "-c", script], check=True, env=os.environ | {"PYTHONPATH": str(SCRIPTS)})


@pytest.mark.parametrize(
    ("network", "narrow"),
    [
        (Narrow(7), True),
        (Narrow(7, functional=True), True),
        (Narrow(7, stride=(1, 2)), True),
        (Narrow(16), False),
        (Narrow(7, stride=1), False),
        (Narrow(7, kernel=3), False),
        (Narrow(8, groups=8), False),
    ],
)
def test_narrow_convolutions_are_found_and_the_network_stays_as_it_is(network, narrow):
    before = torch.random.get_rng_state()
    assert has_narrow_convolution(network, torch.zeros(2, 1, 8, 8)) == narrow
    assert not network.norm.num_batches_tracked
    assert torch.equal(torch.random.get_rng_state(), before)


def test_narrow_convolutions_are_sliced_plain_and_prepared_for_qat(data):
    network, pixels = Narrow(7, stride=(1, 2)), torch.randn(2, 1, 32, 32)
    prepared = prepare(network, data.dataset, data.train.images[:8], torch.device("cpu")).fake_quantized
    assert has_narrow_convolution(prepared, pixels)
    expected = network(pixels)
    with _SlicedStrides():
        assert not has_narrow_convolution(network, pixels)
        assert not has_narrow_convolution(prepared, pixels)
        torch.testing.assert_close(network(pixels), expected)


@pytest.mark.parametrize("padding", [0, 1])
def test_narrow_convolutions_with_padding_are_not_sliced_but_trained_without_onednn(padding):
    context = check_training(Narrow(7, padding=padding), Normalize(GREY), random_split(4).images)
    with context():
        assert torch.backends.mkldnn.enabled == (not padding)
