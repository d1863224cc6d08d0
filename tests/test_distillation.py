"""Distillation: what the dense network answers is learnt, as much as asked for."""

import onnx
import pytest
import torch
from networks import lively
from torch import nn
from trainings import CPU, GREY, linear, separable, settings

from elagage.data import PreparedData, Split
from elagage.modes import MINMAX
from elagage.onnx.deployed import description
from elagage.pytorch.checkpoints import load_checkpoint, save_checkpoint
from elagage.pytorch.distillation import LABELS_ONLY, Distillation, DistillationLoss
from elagage.pytorch.models import ModelSpec, Normalize, build_network
from elagage.pytorch.training import fit
from elagage.pytorch.training_loss import of_labels
from elagage.pytorch.training_state import TrainingState
from elagage.schedules import warmup_and_cosine
from prune_channels import prune_channels
from quantize_qat import quantize_qat
from recover import recover


class Constant(nn.Module):
    """A teacher that answers the same for each image."""

    def __init__(self, logits: list[float]):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(len(pixels), -1)


def test_the_loss_is_that_of_labels_and_of_soft_targets_by_their_shares():
    logits = torch.tensor([[1.0, -1.0, 0.5], [0.0, 2.0, 1.0]], requires_grad=True)
    labels, teacher = torch.tensor([0, 2]), Constant([3.0, 0.0, -1.0])
    loss, found = DistillationLoss(teacher, 0.3)(lambda pixels: logits, torch.zeros(2, 1, 4, 4), labels)
    wanted, given = (torch.softmax(each / 4, 1) for each in (teacher(torch.zeros(2, 1)), logits))
    divergence = (wanted * (wanted / given).log()).sum(1).mean()
    expected = 0.7 * nn.functional.cross_entropy(logits, labels) + 0.3 * 16 * divergence
    torch.testing.assert_close(loss, expected)
    assert found is logits
    loss.backward()
    assert teacher.logits.grad is None


class Doubling(nn.Module):
    """Changes the pixels in place."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 2)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.linear(pixels.mul_(2).flatten(1))


def test_a_network_that_changes_its_pixels_is_no_other_than_itself():
    network = Doubling()
    loss, _ = DistillationLoss(network, 1.0)(network, torch.randn(5, 1, 4, 4), torch.zeros(5, dtype=torch.int64))
    assert loss.item() == pytest.approx(0, abs=1e-6)


def test_without_a_share_nothing_is_loaded_and_labels_decide():
    assert LABELS_ONLY.loss("resnet8", GREY, 0, CPU) is of_labels
    assert Distillation("missing.safetensors", 0.0).loss("resnet8", GREY, 0, CPU) is of_labels


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_who_teaches_alone_is_believed_rather_than_the_labels(share, tmp_path):
    split = separable(64)
    wrong = Split(split.images, 1 - split.labels)
    teacher = linear()
    with torch.no_grad():
        teacher[1].weight[1] = 5.0  # brighter images are of class 1, as in `split`
    loss = DistillationLoss(teacher, share) if share else of_labels
    network = linear()
    chosen = settings(epochs=8)
    state = TrainingState(tmp_path / "state.pt", {})
    options = {"seed": 0, "label": "train", "state": state, "device": CPU, "loss": loss}
    # Of equally good epochs the last is kept: the score is no part of this.
    fit(network, PreparedData(GREY, wrong, wrong), chosen, warmup_and_cosine(chosen), score=lambda row: 0, **options)
    answers = network(Normalize(GREY)(torch.from_numpy(split.images))).argmax(1)
    assert torch.equal(answers, torch.from_numpy(split.labels if share else wrong.labels))


@pytest.mark.parametrize("scope", ["global", "channel"])
def test_a_recovery_learns_from_the_dense_network_and_says_so(scope, tmp_path, data, dense, pruned):
    if scope == "channel":
        pruned = tmp_path / "channel.safetensors"
        prune_channels(data.dataset, dense, "resnet8", rate=0.5, checkpoint=pruned)
    files = {name: tmp_path / f"{name}.safetensors" for name in ("labels", "half", "again")}
    for (name, checkpoint), share in zip(files.items(), (0.0, 0.5, 0.5), strict=True):
        recover(
            data,
            ModelSpec("mine", "resnet8", 0),
            settings(epochs=2, flip=None),
            pruned=str(pruned),
            recovery="rewind",
            retraining={"epochs": 1},
            distillation=Distillation(str(dense), share),
            state=TrainingState(tmp_path / f"{name}.pt", {}),
            checkpoint=str(checkpoint),
        )
    assert files["half"].read_bytes() == files["again"].read_bytes()
    (labels, _), (half, provenance) = (load_checkpoint(files[name]) for name in ("labels", "half"))
    assert provenance["retraining"] == {"epochs": 1, "distillation": 0.5}
    assert any((half[name] != tensor).any() for name, tensor in labels.items())


def test_qat_learns_from_the_dense_network_and_says_so(tmp_path, data, dense):
    network, checkpoint = lively(build_network("resnet8", 3, 1)), tmp_path / "untrained.safetensors"
    save_checkpoint(checkpoint, network.state_dict(), {"model": "mine"})
    files = {}
    for share in (0.0, 0.5):
        files[share] = tmp_path / f"{share}.onnx"
        quantize_qat(
            data,
            checkpoint,
            "resnet8",
            settings(epochs=6, learning_rate=0.05, warmup_epochs=0, flip=None),
            seed=0,
            calibration_images=16,
            calibration=MINMAX,
            distillation=Distillation(str(dense), share),
            state=TrainingState(tmp_path / f"{share}.pt", {}),
            output=str(files[share]),
        )
    models = {share: onnx.load(path) for share, path in files.items()}
    records = {share: description(model)["provenance"] for share, model in models.items()}
    assert {share: record["qat_distillation"] for share, record in records.items()} == {0.0: 0.0, 0.5: 0.5}
    assert all(record["qat_epoch"] > 0 for record in records.values())
    assert models[0.0].graph != models[0.5].graph
