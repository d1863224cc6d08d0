"""The workflow as users run it: a tiny real study from images to figures, and what reruns after a change."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy
import onnxruntime
import pandas
import pytest
import torch

REPOSITORY = pathlib.Path(__file__).parent.parent
PROFILES = sorted(path.parent for path in REPOSITORY.glob("workflow/profiles/*/config.yaml"))
MY_MODEL = """
from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.stem = nn.Conv2d(in_channels, 8, 3, padding=1)
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.linear = nn.Linear(8, num_classes)

    def forward(self, x):
        x = self.stem(x)
        for _ in range(2):
            x = x + self.block(x)
        return self.linear(x.mean((2, 3)))


def build(num_classes, in_channels):
    return Net(num_classes, in_channels)
"""
CONFIG = """
dataset: {name: digits}
models:
  resnet8: {architecture: resnet8}
  mine: {architecture: "my_model.py:build", weights: my_weights.pt}
training: {epochs: 2}
pruning: {rates: [0.0, 0.5]}
quantization: {modes: [none, dynamic, dynamic_conv, static], calibration_images: 64}
evaluation: {latency_images: 40}
"""


def snakemake(folder: pathlib.Path, *arguments: str, check: bool = True) -> str:
    """Run Snakemake in the folder of a study and return what it printed."""
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *arguments]
    run = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert not check or run.returncode == 0, run.stdout
    return run.stdout


def planned(folder: pathlib.Path, *arguments: str) -> dict[str, int]:
    """Return how many jobs of each rule a dry run would start."""
    output = snakemake(folder, "--dry-run", *arguments)
    if "Nothing to be done" in output:
        return {}
    table = output.partition("Job stats:")[2].partition("Reasons:")[0]
    jobs = {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)}
    assert jobs.pop("total") == sum(jobs.values())
    jobs.pop("all", None)
    return jobs


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> pathlib.Path:
    """A copy of the repository in which a tiny study has run: digits, two models, one of them a user's own."""
    folder = tmp_path_factory.mktemp("repository")
    for name in ("workflow", "scripts", "envs"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "config").mkdir()
    (folder / "config/config.yaml").write_text(CONFIG)
    (folder / "my_model.py").write_text(MY_MODEL)
    namespace: dict = {}
    exec(MY_MODEL, namespace)
    torch.manual_seed(0)
    network = torch.nn.DataParallel(namespace["build"](10, 1))
    torch.save({"state_dict": network.state_dict(), "epoch": 3}, folder / "my_weights.pt")
    snakemake(folder, "all")
    return folder


@pytest.fixture
def summary(study) -> pandas.DataFrame:
    return pandas.read_csv(study / "results/summary.csv", keep_default_na=False)


def test_the_summary_has_every_variant_once(summary):
    names = ["model", "seed", "scope", "rate", "recovery", "mode"]
    assert len(summary) == 2 * 1 * 2 * 2 * 4
    assert not summary.duplicated(names).any()
    assert set(summary["model"]) == {"resnet8", "mine"}


def test_the_counted_sparsity_is_the_rate(summary):
    exact = summary[summary["mode"] == "none"]
    numpy.testing.assert_allclose(exact["sparsity"], exact["rate"], atol=1e-3)
    assert (summary["sparsity"] >= summary["rate"] - 1e-3).all()


def test_rate_zero_is_the_dense_model_for_every_scope(summary):
    dense = summary[summary["rate"] == 0].drop(columns="scope")
    assert len(dense) == 16
    assert len(dense.drop_duplicates()) == 8


def test_measurements_are_plausible(summary):
    assert (summary["accuracy_low"] <= summary["accuracy"]).all()
    assert (summary["accuracy"] <= summary["accuracy_high"]).all()
    assert (summary["inference_time_ms"] > 0).all()
    assert (summary["test_images"] == 1000).all()
    static = summary[summary["mode"] == "static"]
    assert (static["int8_weights"] == static["weights"]).all()
    sizes = summary.pivot_table(index=["model", "scope", "rate"], columns="mode", values="model_size_bytes")
    assert (sizes.loc["resnet8", "static"] < 0.5 * sizes.loc["resnet8", "none"]).all()


def test_a_trained_network_beats_chance(summary):
    dense = summary[(summary["model"] == "resnet8") & (summary["rate"] == 0) & (summary["mode"] == "none")]
    assert (dense["accuracy_low"] > 0.2).all()  # of 10 classes, after 2 epochs of 6 steps


def test_all_promised_figures_are_drawn(study):
    figures = {path.stem for path in (study / "results/plots").glob("*.png")}
    promised = {
        f"{scope}_pruning_{metric}"
        for scope in ("local", "global")
        for metric in ("accuracy", "model_size", "inference_time")
    }
    assert figures == promised | {"local_global_accuracy", "quantization_comparison", "training_history", "pareto"}


def test_an_onnx_file_stands_on_its_own(study):
    session = onnxruntime.InferenceSession(study / "results/models/mine/seed0/global/0.5/none-static.onnx")
    image, logits = session.get_inputs()[0], session.get_outputs()[0]
    assert (image.name, image.type, image.shape) == ("image", "tensor(uint8)", ["batch", 1, 8, 8])
    assert (logits.name, logits.type) == ("logits", "tensor(float)")
    metadata = session.get_modelmeta().custom_metadata_map
    assert set(metadata) == {"classes", "preprocessing", "provenance"}
    images = numpy.load(study / "results/data/test_images.npy")
    predicted = numpy.load(study / "results/models/mine/seed0/global/0.5/none-static.predictions.npy")
    assert (session.run(None, {"image": images})[0].argmax(1) == predicted).all()


def test_a_model_with_weights_is_not_trained(study):
    assert not (study / "results/models/mine/seed0/history.csv").exists()
    assert not (study / "results/logs/train/mine").exists()


def test_every_job_leaves_a_log_and_no_temporary_file(study):
    logs = list((study / "results/logs").rglob("*.log"))
    assert all("MiB of memory at its peak" in log.read_text() for log in logs)
    assert {"train", "train_import", "prune", "quantize", "evaluate_latency"} <= {log.parts[-4] for log in logs} | {
        log.parts[-3] for log in logs
    } | {path.name for path in (study / "results/logs").iterdir()}
    assert not [path for path in (study / "results").rglob(".*")]


def test_nothing_runs_when_nothing_changed(study):
    assert planned(study, "all") == {}


def test_nothing_runs_after_a_new_clone_changed_all_times_of_the_code(study):
    for path in [*(study / "scripts").rglob("*.py"), *(study / "workflow").rglob("*.smk")]:
        os.utime(path)
    assert planned(study, "all") == {}


def edited(path: pathlib.Path, old: str = "", new: str = "# edited\n"):
    """Return a context in which the file is edited, and back as it was afterwards."""

    class Edit:
        def __enter__(self):
            self.text, self.times = path.read_text(), path.stat()
            path.write_text(self.text.replace(old, new, 1) if old else self.text + new)

        def __exit__(self, *_):
            path.write_text(self.text)
            os.utime(path, ns=(self.times.st_atime_ns, self.times.st_mtime_ns))

    return Edit()


AFTER_PRUNING = {"quantize", "evaluate_accuracy", "evaluate_size", "evaluate_latency", "summarize", "plot"}


@pytest.mark.parametrize(
    ("module", "rerun"),
    [
        ("plots", {"plot"}),
        ("statistics", {"summarize", "plot"}),
        (
            "pruning",
            {"prune", "quantize", "evaluate_accuracy", "evaluate_size", "evaluate_latency", "summarize", "plot"},
        ),
    ],
)
def test_an_edited_module_reruns_the_rules_that_use_it(study, module, rerun):
    with edited(study / f"scripts/elagage/{module}.py"):
        jobs = planned(study, "all")
    assert set(jobs) == rerun
    assert jobs.get("prune", 4) == 4


def test_an_edited_model_file_reruns_what_builds_that_model(study):
    with edited(study / "my_model.py"):
        jobs = planned(study, "all")
    assert jobs["train_import"] == jobs["quantize_export"] == jobs["evaluate_latency_eager"] == 1
    assert jobs["prune"] == 2
    assert "train" not in jobs


def test_other_weights_rerun_that_model(study):
    weights = study / "my_weights.pt"
    before, times = weights.read_bytes(), weights.stat()
    weights.write_bytes(before + b" ")
    jobs = planned(study, "all")
    weights.write_bytes(before)
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert jobs["train_import"] == 1
    assert jobs["prune"] == 2
    assert "train" not in jobs


def test_one_more_rate_runs_that_rate_alone(study):
    with edited(study / "config/config.yaml", "[0.0, 0.5]", "[0.0, 0.5, 0.7]"):
        jobs = planned(study, "all")
        output = snakemake(study, "--dry-run", "all")
    assert jobs == {
        "prune": 4,
        "quantize": 16,
        "evaluate_accuracy": 4,
        "evaluate_size": 4,
        "evaluate_latency": 4,
        "summarize": 1,
        "plot": 1,
    }
    assert "global 0.7" in output
    assert "global 0.5" not in output


def test_another_seed_trains_again_but_for_a_model_with_weights(study):
    with edited(study / "config/config.yaml", "training:", "seeds: [0, 1]\ntraining:"):
        assert planned(study, "all")["train"] == 1
        assert "train_import" not in planned(study, "all")


def test_promised_targets_can_be_named(study):
    assert planned(study, "results/plots/global_pruning_accuracy.png") == {}


@pytest.mark.parametrize("profile", PROFILES, ids=lambda path: path.name)
def test_every_profile_plans_the_default_study(profile, tmp_path):
    config = REPOSITORY / "config/config.yaml"
    jobs = planned(
        *(tmp_path, "--snakefile", str(REPOSITORY / "workflow/Snakefile"), "--configfile", str(config)),
        *("--workflow-profile", str(profile), "all"),
    )
    assert jobs["train"] == 1
    assert jobs["prune"] == 18
    assert jobs["quantize"] == 57  # 19 checkpoints, 3 modes
    assert jobs["evaluate_latency"] == 19


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_the_configurations_on_offer_plan_a_study(name, tmp_path):
    config = REPOSITORY / f"config/{name}.yaml"
    snakefile = REPOSITORY / "workflow/Snakefile"
    jobs = planned(tmp_path, "--snakefile", str(snakefile), "all", "--configfile", str(config))
    assert jobs["plot"] == 1


def test_the_report_holds_the_figures(study):
    snakemake(study, "--report", "report.html")
    report = (study / "report.html").read_text()
    assert "global_pruning_accuracy.png" in report
    assert "Wilson" in report
