"""The check of a model before anything is trained: a study in small, by the functions of the real jobs."""

import functools
import json
import pathlib

import pytest

from check import check, seconds, spoken
from check_model import check_model
from elagage.data import PreparedData, Split
from elagage.errors import UserError
from elagage.plan import Plan
from elagage.pytorch.checkpoints import load_network
from elagage.pytorch.inspection import predicted_classes
from elagage.pytorch.models import ModelSpec
from elagage.schedules import TrainingSettings
from quantize_export import quantize_export

NETWORKS = """
from torch import nn


def plain(num_classes, in_channels):
    return nn.Sequential(
        nn.Conv2d(in_channels, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, num_classes))


def no_linear(num_classes, in_channels):
    return nn.Sequential(nn.Conv2d(in_channels, num_classes, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
"""
SETTINGS = TrainingSettings(
    epochs=1, batch_size=8, learning_rate=1e-4, momentum=0.9, weight_decay=0, warmup_epochs=0, flip=None
)
ALL = {
    "distillation": {"retraining": 0.5, "qat": 0.5},
    "scopes": ["local", "global", "channel"],
    "rates": [0.5],
    "recoveries": ["none", "batchnorm", "reconstruct", "finetune", "rewind", "iterative"],
    "modes": ["float32", "dynamic", "dynamic_conv", "static", "static4", "static3", "qat"],
}


def checked(
    folder: pathlib.Path,
    data: PreparedData,
    test: Split,
    architecture: str,
    asked: dict = ALL,
    weights: str | None = None,
    strict: bool = False,
    **stated,
) -> dict:
    """Check a network and return what the check wrote: check.json in the folder."""
    (folder / "networks.py").write_text(NETWORKS)
    if not architecture.startswith("resnet"):
        architecture = f"{folder}/networks.py:{architecture}"
    graph, output = str(folder / "graph.onnx"), str(folder / "check.json")
    quantize_export(data.dataset, architecture, None, graph)
    stated = {"normalization": "dataset", "accuracy": None, "preprocessing": {"range": 1}} | stated
    choices = {"graph": graph, "weights": weights, "asked": asked, "stated": stated, "strict": strict, "trains": True}
    check_model(data, test, ModelSpec("mine", architecture, 0), SETTINGS, **choices, output=output)
    return json.loads(pathlib.Path(output).read_text())


@pytest.fixture
def found(tmp_path, data, held_out):
    """Return a function that checks a network."""
    return functools.partial(checked, tmp_path, data, held_out)


@pytest.fixture(scope="module")
def plain(tmp_path_factory, data, held_out) -> dict:
    """Return what is found of a network without batch norm."""
    return checked(tmp_path_factory.mktemp("plain"), data, held_out, "plain")


def cells(found: dict) -> set[tuple[str, str, str]]:
    return {(row["scope"], row["recovery"], row["mode"]) for row in found["refused"]}


def test_a_network_that_can_do_everything_is_refused_nothing(found):
    resnet = found("resnet8")
    assert resnet["refused"] == []
    assert "accuracy" not in resnet
    assert resnet["training_seconds"] > 0 and resnet["inference_seconds"] > 0
    assert resnet["bytes"]["static"] < resnet["bytes"]["float32"]
    layers = {row["layer"]: row for row in resnet["layers"]}
    assert layers["linear"]["dynamic"] == layers["stage2.0.conv1"]["static"] == layers["conv1"]["qat"] == "int8"
    assert layers["stage2.0.conv1"]["static4"] == layers["conv1"]["static3"] == "int8"
    assert layers["conv1"]["dynamic"] == "float32"
    assert {row["local: zero or removed"] for row in resnet["layers"]} == {"50%"}
    assert "elagage_preprocess.mean" not in layers


def test_what_the_network_rules_out_is_refused_for_its_reason_and_all_else_is_tried(plain):
    assert cells(plain) == {(scope, "batchnorm", "") for scope in ALL["scopes"]}
    assert all("no batch norm" in row["refused"] for row in plain["refused"])


def test_a_network_without_linear_layers_has_modes_all_the_same(found):
    assert not {mode for *_, mode in cells(found("no_linear", ALL | {"scopes": ["global"]}))} & {"dynamic", "static"}


def test_strict_stops_with_the_number_of_refused_combinations(found, tmp_path):
    asked = ALL | {"scopes": ["global"], "rates": [0.5], "recoveries": ["none", "batchnorm"], "modes": ["float32"]}
    with pytest.raises(UserError, match="strict: true, and 1 combination"):
        found("plain", asked, strict=True)
    assert not (tmp_path / "check.json").exists()


def test_given_weights_are_measured_on_test_images_and_their_known_accuracy_is_checked(found, dense, data, held_out):
    asked = ALL | {"scopes": ["global"], "rates": [], "recoveries": ["none"], "modes": ["float32"]}
    network, _ = load_network(dense, "resnet8", data.dataset)
    correct = (predicted_classes(network, data.dataset, held_out.images) == held_out.labels).mean()
    measured = found("resnet8", asked, weights=str(dense))
    assert (measured["accuracy"], measured["images"]) == (correct, len(held_out))
    with pytest.raises(UserError, match=r"not the stated 99\.90%"):
        found("resnet8", asked, weights=str(dense), accuracy=0.999)


def test_the_report_names_what_is_refused_and_how_much_there_is_to_do(plain, tmp_path, dataset):
    (tmp_path / "check.json").write_text(json.dumps(plain))
    config = {
        "models": {"mine": {"architecture": "networks.py:plain", "weights": None}},
        "seeds": [0, 1],
        "dataset": {"name": "digits", "image_size": 32},
        "training": {"epochs": 9, "batch_size": 128},
        "pruning": {"scopes": ["local", "channel"], "rates": [0, 0.5], "recovery": ["none", "finetune"]},
        "retraining": {"epochs": 2, "reconstruct_images": None, "distillation": 0.0},
        "quantization": {"modes": ["float32", "static"], "qat_epochs": 5, "qat_distillation": 0.0},
        "evaluation": {"latency_images": None},
    }
    work = Plan(config).work("mine")
    # Of each seed: dense, the control of finetune, and two recoveries of two scopes at one rate.
    assert (work["checkpoints"], work["variants"], work["training_passes"]) == (12, 24, 2 * 9 + 6 * 2)
    taught = Plan(config | {"retraining": config["retraining"] | {"distillation": 0.5}}).work("mine")
    assert taught["training_passes"] == pytest.approx(2 * 9 + 6 * 2 * 4 / 3)
    qat = {"modes": ["float32", "qat"], "qat_epochs": 5, "qat_distillation": 0.5}
    # Of all checkpoints; qat itself takes two passes of time.
    assert Plan(config | {"quantization": qat}).work("mine")["training_passes"] == pytest.approx(
        30 + 12 * 5 * (2 + 1 / 3)
    )
    answer = {"maximum_accuracy_loss": 2.0, "confidence": 0.95}
    described = str(dataset / "dataset.json")
    check([str(tmp_path / "check.json")], described, {"mine": work}, answer, 2, str(tmp_path / "check.md"))
    report = (tmp_path / "check.md").read_text()
    assert "24 variants to measure; about " in report
    assert "**channel with batchnorm is refused**" in report
    assert report.count("\n| ") == 3 + 1  # weights, header


def test_trainings_that_take_one_core_run_side_by_side():
    found, images = {"training_seconds": 0.01, "inference_seconds": 0}, {"train": 1000, "test": 10}
    work = {"training_passes": 6, "trainings": 2, "timed_images": 10, "variants": 1, "checkpoints": 0, "fits": 0}
    work |= {"fitted_images": 10}
    durations = [seconds(found, work | {"training_threads": threads}, images, cores=2) for threads in (1, 8)]
    assert durations == pytest.approx([30, 60])
    only_one = work | {"training_threads": 1, "trainings": 1}
    assert seconds(found, only_one, images, cores=16) == pytest.approx(60)


def test_fits_take_longer_of_more_images():
    found, images = {"training_seconds": 0, "inference_seconds": 0.01}, {"train": 1000, "test": 0}
    work = {"training_passes": 0, "trainings": 0, "training_threads": 1, "timed_images": 0, "variants": 0}
    fits = [work | {"checkpoints": 0, "fits": 2, "fitted_images": count} for count in (100, 200, 5000)]
    assert [seconds(found, each, images, cores=2) for each in fits] == pytest.approx([60, 120, 600])


def test_durations_are_said_in_a_unit_that_people_would_take():
    assert [spoken(seconds) for seconds in (5.2, 600, 36000)] == ["5 seconds", "10 minutes", "10.0 hours"]
