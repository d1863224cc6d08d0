"""Batch norm statistics estimated again: those of the images, and nothing else is changed."""

import pathlib

import pytest
import torch

from elagage.data import PreparedData
from elagage.errors import UserError
from elagage.pytorch.checkpoints import load_checkpoint, save_checkpoint
from elagage.pytorch.models import build_network
from recover_batchnorm import recover_batchnorm


def recovered(
    data: PreparedData, pruned: pathlib.Path, output: pathlib.Path, architecture: str = "resnet8", images: int = 24
) -> pathlib.Path:
    """Return the checkpoint's path."""
    checkpoint = output / "batchnorm.safetensors"
    recover_batchnorm(data, pruned, architecture, batchnorm_images=images, checkpoint=checkpoint)
    return checkpoint


def test_batchnorm_changes_the_statistics_and_nothing_else(tmp_path, data, pruned):
    before = load_checkpoint(pruned)[0]
    after = load_checkpoint(recovered(data, pruned, tmp_path / "out"))[0]
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    kinds = ("running_mean", "running_var", "num_batches_tracked")
    assert changed == {name for name in before if name.endswith(kinds)}


def test_the_checkpoint_says_where_it_comes_from(tmp_path, data, pruned):
    before = load_checkpoint(pruned)[1]
    provenance = load_checkpoint(recovered(data, pruned, tmp_path / "out"))[1]
    assert 0 <= provenance.pop("validation_accuracy") <= 1
    assert provenance == before | {"recovery": "batchnorm", "batchnorm_images": 24, "torch": torch.__version__}


def test_the_same_inputs_give_the_same_bytes(tmp_path, data, pruned):
    first = recovered(data, pruned, tmp_path / "first").read_bytes()
    assert recovered(data, pruned, tmp_path / "second").read_bytes() == first


def test_batchnorm_takes_the_mean_and_variance_of_the_images(tmp_path, data):
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def build(num_classes, in_channels):\n"
        "    return nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, num_classes))\n"
    )
    architecture = f"{tmp_path}/net.py:build"
    network, source = build_network(architecture, 3, 1), tmp_path / "none.safetensors"
    save_checkpoint(source, network.state_dict(), {"scope": "global", "rate": 0.5})
    output = recovered(data, source, tmp_path, architecture)
    state = load_checkpoint(output)[0]
    # The data set's mean and deviation are those of its training images, which normalization makes 0 and 1.
    assert state["0.running_mean"].item() == pytest.approx(0, abs=1e-4)
    assert state["0.running_var"].item() == pytest.approx(1, rel=1e-2)


def test_frozen_norms_are_estimated_and_those_of_training_alone_keep_their_statistics(tmp_path, data):
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, classes):\n"
        "        super().__init__()\n"
        "        self.frozen, self.auxiliary = nn.BatchNorm2d(1), nn.BatchNorm2d(1)\n"
        "        self.volume, self.linear = nn.Conv3d(1, 1, 1), nn.Linear(64, classes)\n"
        "        self.auxiliary.running_mean.fill_(0.25)\n"
        "    def train(self, mode=True):\n"
        "        super().train(mode)\n"
        "        self.frozen.eval()\n"
        "        return self\n"
        "    def forward(self, x):\n"
        "        if self.training:\n"
        "            self.auxiliary(x)\n"
        "        return self.linear(self.volume(self.frozen(x)[:, None]).flatten(1))\n"
        "def build(num_classes, in_channels):\n"
        "    return Net(num_classes)\n"
    )
    architecture = f"{tmp_path}/net.py:build"
    network, source = build_network(architecture, 3, 1), tmp_path / "none.safetensors"
    network.frozen.running_mean.fill_(5)
    save_checkpoint(source, network.state_dict(), {"scope": "global", "rate": 0.5})
    state = load_checkpoint(recovered(data, source, tmp_path, architecture))[0]
    assert state["frozen.running_mean"].item() == pytest.approx(0, abs=1e-4)
    assert state["frozen.num_batches_tracked"] > 0
    assert state["auxiliary.running_mean"] == 0.25


def test_batchnorm_without_a_batch_norm_says_so(tmp_path, data):
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def build(num_classes, in_channels):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))\n"
    )
    architecture, source = f"{tmp_path}/net.py:build", tmp_path / "none.safetensors"
    save_checkpoint(source, build_network(architecture, 3, 1).state_dict(), {"scope": "global", "rate": 0.5})
    with pytest.raises(UserError, match=r"net\.py:build.*batchnorm changes nothing"):
        recovered(data, source, tmp_path / "out", architecture)
    assert not (tmp_path / "out").exists()


def test_batchnorm_on_more_images_than_there_are_names_the_key(tmp_path, data, pruned):
    with pytest.raises(UserError, match=r"retraining\.batchnorm_images: 25 images asked for, but there are only 24"):
        recovered(data, pruned, tmp_path / "out", images=25)
