"""Recovery: what each one does to a pruned network, and that pruned weights stay zero whatever it does."""

import pathlib

import pytest
import torch
from interruption import DiesAfter, Killed
from torch import nn

from elagage.data import Dataset, PreparedData
from elagage.errors import UserError
from elagage.files import refusal
from elagage.modes import MINMAX
from elagage.pruning import zero_smallest
from elagage.pytorch.checkpoints import load_checkpoint, save_checkpoint
from elagage.pytorch.distillation import LABELS_ONLY, Distillation
from elagage.pytorch.evaluation import evaluate
from elagage.pytorch.models import ModelSpec, Normalize, build_network
from elagage.pytorch.pruning import count_weights, hold_zeros, magnitude_prune, prunable
from elagage.pytorch.training_state import TrainingState
from elagage.schedules import TrainingSettings
from quantize import quantize_checkpoint
from quantize_export import quantize_export
from recover import recover

SETTINGS = TrainingSettings(
    epochs=6, batch_size=8, learning_rate=0.05, momentum=0.9, weight_decay=0.0005, warmup_epochs=1, flip=None
)
RETRAINING = {
    "finetune": {"epochs": 3, "learning_rate": 0.0005},
    "rewind": {"epochs": 3},
    "iterative": {"epochs": 3},
}


def recovered(data: PreparedData, pruned: pathlib.Path, recovery: str, output: pathlib.Path, **changes):
    """Return the checkpoint's path; changes: architecture, seed, state, or settings of the recovery."""
    model = ModelSpec("mine", changes.pop("architecture", "resnet8"), changes.pop("seed", 0))
    state = changes.pop("state", TrainingState(output / "state.pt", {}))
    distillation = changes.pop("distillation", LABELS_ONLY)
    checkpoint = output / f"{recovery}.safetensors"
    recover(
        data,
        model,
        SETTINGS,
        pruned=pruned,
        recovery=recovery,
        retraining=RETRAINING[recovery] | changes,
        distillation=distillation,
        state=state,
        checkpoint=checkpoint,
    )
    return checkpoint


def weights(checkpoint: pathlib.Path) -> dict[str, torch.Tensor]:
    """Return the weights that pruning reaches."""
    return {name: tensor for name, tensor in load_checkpoint(checkpoint)[0].items() if tensor.dim() > 1}


@pytest.mark.parametrize("recovery", RETRAINING)
def test_what_was_pruned_is_zero_afterwards_without_a_sign(tmp_path, data, pruned, recovery):
    before, after = weights(pruned), weights(recovered(data, pruned, recovery, tmp_path / "out"))
    for name, tensor in before.items():
        zero = tensor == 0
        assert zero.any() or name == "conv1.weight"
        assert not after[name][zero].any()
        assert not torch.signbit(after[name][zero]).any()


@pytest.mark.parametrize("recovery", RETRAINING)
def test_retraining_changes_the_weights_that_were_left(tmp_path, data, pruned, recovery):
    before, after = weights(pruned), weights(recovered(data, pruned, recovery, tmp_path / "out"))
    for name, tensor in before.items():
        left = tensor != 0
        assert (after[name][left] != tensor[left]).float().mean() > 0.99, name


def test_retraining_regains_accuracy(tmp_path, data, pruned):
    before = accuracy(pruned, data)
    path = recovered(data, pruned, "rewind", tmp_path / "out", epochs=6)
    after = accuracy(path, data)
    assert before < 0.7 < after
    assert load_checkpoint(path)[1]["validation_accuracy"] == pytest.approx(after)


def test_a_network_whose_parameters_are_frozen_is_named(tmp_path, data):
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def build(num_classes, in_channels):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes)).requires_grad_(False)\n"
    )
    architecture, source = f"{tmp_path}/net.py:build", tmp_path / "none.safetensors"
    save_checkpoint(source, build_network(architecture, 3, 1).state_dict(), {"scope": "global", "rate": 0.5})
    with pytest.raises(UserError, match=r"net\.py:build.*no parameter has requires_grad.*leave out"):
        recovered(data, source, "finetune", tmp_path / "out", architecture=architecture)


def accuracy(checkpoint: pathlib.Path, data: PreparedData) -> float:
    network = build_network("resnet8", 3, 1)
    network.load_state_dict(load_checkpoint(checkpoint)[0])
    return evaluate(network, Normalize(data.dataset), data.validation, torch.device("cpu"))[1]


def test_the_checkpoint_says_where_it_comes_from(tmp_path, data, pruned):
    before = load_checkpoint(pruned)[1]
    provenance = load_checkpoint(recovered(data, pruned, "finetune", tmp_path / "out"))[1]
    assert provenance.pop("retraining_epoch") in (1, 2, 3)
    assert 0 <= provenance.pop("validation_accuracy") <= 1
    retraining = {"epochs": 3, "learning_rate": 0.0005, "distillation": 0.0}
    assert provenance == before | {"recovery": "finetune", "retraining": retraining, "torch": torch.__version__}
    assert provenance["zeros"] == round(0.8 * provenance["weights"])


def test_a_dense_network_trains_on_as_a_control_whose_file_is_held_to_no_share_of_zeros(tmp_path, data, dense):
    control = recovered(data, dense, "finetune", tmp_path / "out")
    assert "zeros" not in load_checkpoint(control)[1]
    assert any((weights(control)[name] != tensor).any() for name, tensor in weights(dense).items())
    quantize_export(data.dataset, "resnet8", None, tmp_path / "graph.onnx")
    outputs = {"float32": str(tmp_path / "control.onnx")}
    quantize_checkpoint(
        data.dataset,
        str(tmp_path / "graph.onnx"),
        str(control),
        training=None,
        calibration=MINMAX,
        mixed=None,
        outputs=outputs,
    )
    assert refusal(outputs["float32"]) is None


@pytest.mark.parametrize("recovery", RETRAINING)
def test_the_same_inputs_give_the_same_bytes_and_leave_no_state(tmp_path, data, pruned, recovery):
    first = recovered(data, pruned, recovery, tmp_path / "first").read_bytes()
    assert recovered(data, pruned, recovery, tmp_path / "second").read_bytes() == first
    assert [path.name for path in (tmp_path / "first").iterdir()] == [f"{recovery}.safetensors"]


def test_another_seed_takes_the_images_in_another_order(tmp_path, data, pruned):
    first = recovered(data, pruned, "finetune", tmp_path / "first").read_bytes()
    assert recovered(data, pruned, "finetune", tmp_path / "second", seed=1).read_bytes() != first


@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize("epoch", [1, 2])
def test_a_killed_retraining_goes_on_and_ends_with_the_same_bytes(tmp_path, data, dense, pruned, epoch, share):
    taught = {"distillation": Distillation(str(dense), share)}
    undisturbed = recovered(data, pruned, "rewind", tmp_path / "first", **taught).read_bytes()
    state = DiesAfter(tmp_path / "second/state.pt", {}, [None] * epoch)
    with pytest.raises(Killed):
        recovered(data, pruned, "rewind", tmp_path / "second", state=state, **taught)
    assert state.path.exists()
    assert recovered(data, pruned, "rewind", tmp_path / "second", **taught).read_bytes() == undisturbed
    assert not state.path.exists()


def test_a_loss_that_is_not_finite_names_the_key_of_its_learning_rate(tmp_path, data):
    (tmp_path / "plain.py").write_text(
        "from torch import nn\n"
        "def build(num_classes, in_channels):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, num_classes))\n"
    )
    architecture, source = f"{tmp_path}/plain.py:build", tmp_path / "none.safetensors"
    save_checkpoint(source, build_network(architecture, 3, 1).state_dict(), {"scope": "global", "rate": 0.5})
    with pytest.raises(UserError, match=r"^retraining\.learning_rate: .*; lower retraining\.learning_rate$"):
        recovered(data, source, "finetune", tmp_path / "out", architecture=architecture, learning_rate=1e30)


FOUR = Dataset("four pixels", ["a", "b"], 1, 2, [0.5], [0.2], True, {}, {})


def test_held_zeros_of_a_shared_weight_stay_zero():
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    network[2].weight = network[1].weight
    magnitude_prune(network, FOUR, "local", 0.5)
    zeros = [parameter == 0 for parameter in network.parameters()]
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True)
    hold_zeros(prunable(network, FOUR), optimizer)
    before = count_weights(network, FOUR)
    for step in range(5):
        network(torch.full((3, 4), step + 1.0)).square().sum().backward()
        optimizer.step()
    assert count_weights(network, FOUR) == before
    assert not network[1].weight[zeros[0]].any()
    assert network[1].weight is network[2].weight


def test_weights_between_held_zeros_learn_as_if_masked_in_the_forward_pass():
    torch.manual_seed(0)
    images, targets = torch.randn(16, 6), torch.randn(16, 3)
    held, masked = nn.Linear(6, 3, bias=False), nn.Linear(6, 3, bias=False)
    zero_smallest([held.weight.detach().numpy()], 0.5)
    masked.load_state_dict(held.state_dict())
    nn.utils.prune.custom_from_mask(masked, "weight", held.weight != 0)
    for network, weights in ((held, [(held, "weight")]), (masked, [])):
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True)
        hold_zeros(weights, optimizer)
        for _ in range(10):
            optimizer.zero_grad()
            (network(images) - targets).square().mean().backward()
            optimizer.step()
    masked(images)  # applies the mask to the last step
    torch.testing.assert_close(held.weight, masked.weight)
