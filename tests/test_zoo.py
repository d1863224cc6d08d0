"""A small zoo: what the check of a network allows ends, and what it refuses fails for that reason."""

import itertools
import json
import pathlib
import re

import pytest
from torch import nn

from check_model import Trial, check_model
from elagage.data import Split
from elagage.errors import RefusedError
from elagage.files import refusal
from elagage.onnx.runtime import load, predictions
from elagage.pytorch.models import ModelSpec
from elagage.schedules import TrainingSettings
from quantize_export import quantize_export
from recover_reconstruct import recover_reconstruct

SETTINGS = TrainingSettings(
    epochs=2, batch_size=8, learning_rate=0.01, momentum=0.9, weight_decay=1e-4, warmup_epochs=0, flip=False
)
ASKED = {
    "distillation": {"retraining": 0.0, "qat": 0.0},
    "scopes": ["global", "channel"],
    "rates": [0.8],
    "recoveries": ["none", "batchnorm", "reconstruct", "finetune"],
    "modes": ["float32", "dynamic", "static"],
}


class Recurrent(nn.Module):
    """Reads the rows of an image one after the other."""

    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.rows, self.linear = nn.LSTM(8 * in_channels, 16, batch_first=True), nn.Linear(16, num_classes)

    def forward(self, x):
        return self.linear(self.rows(x.permute(0, 2, 1, 3).flatten(2))[0][:, -1])


class Attention(nn.Module):
    """Patches that look at each other."""

    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.patches, self.linear = nn.Conv2d(in_channels, 16, 4, 4), nn.Linear(16, num_classes)
        self.encoder = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)

    def forward(self, x):
        return self.linear(self.encoder(self.patches(x).flatten(2).transpose(1, 2)).mean(1))


class WithoutLinear(nn.Sequential):
    """Convolutions with batch norm, and no linear layer."""

    def __init__(self, num_classes, in_channels):
        body = nn.Conv2d(in_channels, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, num_classes, 3)
        super().__init__(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Coupled(nn.Module):
    """Norms its channels over all of them, so that none can be removed."""

    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.conv, self.gain = nn.Conv2d(in_channels, 8, 3), nn.Parameter(nn.init.ones_(nn.Conv2d(8, 1, 1).weight))
        self.linear = nn.Linear(8, num_classes)

    def forward(self, x):
        x = self.conv(x)
        return self.linear((x * self.gain / x.norm(dim=1, keepdim=True).clamp(min=1e-6)).relu().mean((2, 3)))


def outcome(trial: Trial, graph: str, test: Split, dense: str, scope: str, rate: float, recovery: str) -> dict:
    """Return for each mode why the file of a cell cannot be made, None for one that can."""
    try:
        checkpoint = trial.pruned(dense, scope, rate)
        shapes = trial.exported(checkpoint) if scope == "channel" else graph
        if recovery != "none":
            source, checkpoint = checkpoint, str(trial.folder / "recovered.safetensors")
            if recovery == "reconstruct":  # the job itself, of which the check computes less
                architecture, images = trial.model.architecture, {"reconstruct_images": None}
                recover_reconstruct(trial.data, dense, source, architecture, **images, checkpoint=checkpoint)
            else:
                trial.recovered(dense, source, recovery)
        trial.quantized(shapes, checkpoint, ASKED["modes"], scope)
    except RefusedError as error:
        return dict.fromkeys(ASKED["modes"], str(error))
    reasons = {}
    for mode in ASKED["modes"]:
        file = trial.onnx_file(scope, mode)
        reasons[mode] = refusal(file)
        if reasons[mode] is None:
            assert len(predictions(load(file, 1), test)) == len(test)
    return reasons


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "refused"),
    [
        (Recurrent, {("global", "batchnorm", "float32"), ("channel", "none", "float32")}),
        (Attention, {("global", "batchnorm", "float32")}),
        (WithoutLinear, set()),
        (Coupled, {("channel", "none", "float32")}),
    ],
)
def test_what_the_check_allows_ends_and_what_it_refuses_fails_for_that_reason(
    network, refused, tmp_path, data, held_out
):
    model = ModelSpec("mine", f"{__file__}:{network.__name__}", 0)
    graph, output = str(tmp_path / "graph.onnx"), tmp_path / "check.json"
    quantize_export(data.dataset, model.architecture, None, graph)
    stated = {"normalization": "dataset", "accuracy": None, "preprocessing": {"range": 1}}
    choices = {"graph": graph, "weights": None, "asked": ASKED, "stated": stated, "strict": False, "trains": True}
    check_model(data, held_out, model, SETTINGS, **choices, output=str(output))
    verdicts = json.loads(output.read_text())["refused"]

    trial = Trial(data, ModelSpec("mine", model.architecture, 1), SETTINGS, pathlib.Path(tmp_path))
    dense = trial.dense()
    wrong, failed = [], set()
    for scope, rate, recovery in itertools.product(ASKED["scopes"], ASKED["rates"], ASKED["recoveries"]):
        for mode, reason in outcome(trial, graph, held_out, dense, scope, rate, recovery).items():
            cell = {"scope": scope, "rate": rate, "recovery": recovery, "mode": mode}
            said = [row["refused"] for row in verdicts if all(row[key] in ("", cell[key]) for key in cell)]
            if {without_numbers(reason)} != {*map(without_numbers, said)} and (reason or said):
                wrong.append((cell, reason, said))
            if reason is not None:
                failed.add((scope, recovery, mode))
    assert wrong == []
    assert failed >= refused


def without_numbers(reason: str | None) -> str | None:
    """Return a reason that can be compared with that of another network of the same form."""
    return reason and re.sub(r"\d+(\.\d+)?", "0", reason)
