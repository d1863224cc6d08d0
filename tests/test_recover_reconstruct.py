"""The job that fits a pruned checkpoint to the dense one."""

import pathlib

import pytest
import torch

from elagage.data import PreparedData
from elagage.errors import UserError
from elagage.kept_channels import kept_channels
from elagage.pytorch.checkpoints import load_checkpoint, save_checkpoint
from elagage.pytorch.models import build_network
from prune_channels import prune_channels
from recover_reconstruct import recover_reconstruct


def recovered(
    data: PreparedData,
    dense: pathlib.Path,
    pruned: pathlib.Path,
    output: pathlib.Path,
    architecture: str = "resnet8",
    images: int | None = None,
) -> pathlib.Path:
    """Return the checkpoint's path."""
    checkpoint = output / "reconstruct.safetensors"
    recover_reconstruct(data, dense, pruned, architecture, reconstruct_images=images, checkpoint=checkpoint)
    return checkpoint


def test_weights_change_but_neither_zeros_nor_names_nor_shapes(tmp_path, data, dense, pruned):
    before = load_checkpoint(pruned)[0]
    after = load_checkpoint(recovered(data, dense, pruned, tmp_path / "out"))[0]
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert tensor.shape == after[name].shape
        if tensor.dim() > 1:
            assert torch.equal(tensor == 0, after[name] == 0)
            assert not torch.equal(tensor, after[name])


def test_the_checkpoint_says_where_it_comes_from(tmp_path, data, dense, pruned):
    before = load_checkpoint(pruned)[1]
    provenance = load_checkpoint(recovered(data, dense, pruned, tmp_path / "out"))[1]
    assert 0 <= provenance.pop("validation_accuracy") <= 1
    assert provenance == before | {
        "recovery": "reconstruct",
        "reconstruct_images": len(data.train),
        "torch": torch.__version__,
    }


def test_the_same_inputs_give_the_same_bytes(tmp_path, data, dense, pruned):
    first = recovered(data, dense, pruned, tmp_path / "first").read_bytes()
    assert recovered(data, dense, pruned, tmp_path / "second").read_bytes() == first


@pytest.mark.parametrize("twice", [False, True])
def test_a_network_without_channels_is_fitted_to_those_it_kept(tmp_path, data, dense, twice):
    source, rates = dense, ([0.3, 0.6] if twice else [0.6])
    for rate in rates:
        checkpoint = tmp_path / f"channel{rate}.safetensors"
        prune_channels(data.dataset, source, "resnet8", rate=rate, checkpoint=checkpoint)
        source = checkpoint
    dense_state, (state, provenance) = load_checkpoint(dense)[0], load_checkpoint(source)
    kept, name = kept_channels(provenance), "stage3.0.conv1.weight"
    assert len(kept[name]) == len(state[name]) < len(dense_state[name])
    for row, channel in zip(state[name], kept[name], strict=True):
        assert torch.isin(row, dense_state[name][channel]).all()
    after = load_checkpoint(recovered(data, dense, source, tmp_path / "out"))[0]
    assert {key: tensor.shape for key, tensor in after.items()} == {key: tensor.shape for key, tensor in state.items()}
    assert not torch.equal(after[name], state[name])


def test_a_network_without_layers_says_so(tmp_path, data):
    (tmp_path / "net.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, classes):\n"
        "        super().__init__()\n"
        "        self.product = nn.Parameter(torch.randn(64, classes))\n"
        "    def forward(self, x):\n"
        "        return x.flatten(1) @ self.product\n"
        "def build(num_classes, in_channels):\n"
        "    return Net(num_classes)\n"
    )
    architecture, source = f"{tmp_path}/net.py:build", tmp_path / "none.safetensors"
    save_checkpoint(source, build_network(architecture, 3, 1).state_dict(), {"scope": "global", "rate": 0.5})
    with pytest.raises(UserError, match=r"net\.py:build.*reconstruct changes nothing: 'product' \(it is multiplied"):
        recovered(data, source, source, tmp_path / "out", architecture)
    assert not (tmp_path / "out").exists()


def test_more_images_than_there_are_name_the_key(tmp_path, data, dense, pruned):
    with pytest.raises(UserError, match=r"retraining\.reconstruct_images: 25 images asked for, but there are only 24"):
        recovered(data, dense, pruned, tmp_path / "out", images=25)
