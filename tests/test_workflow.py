"""The workflow as users run it: a tiny real study from images to figures, and what reruns after a change."""

import hashlib
import itertools
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy
import onnxruntime
import pandas
import PIL.Image
import pytest
import torch
from safetensors.torch import load_file

REPOSITORY = pathlib.Path(__file__).parent.parent
PROFILES = {"default": "--workflow-profile=workflow/profiles/default", "slurm": "--profile=slurm"}
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
pruning: {rates: [0.0, 0.5], recovery: [none, finetune]}
retraining: {epochs: 1}
quantization: {modes: [none, dynamic, dynamic_conv, static], calibration_images: 64}
evaluation: {latency_images: 40}
"""


def snakemake(folder: pathlib.Path, *arguments: str, check: bool = True) -> str:
    """Run Snakemake in the folder of a study and return what it printed."""
    cores = [] if "--profile" in arguments else ["--cores", "2"]
    command = [sys.executable, "-m", "snakemake", *cores, *arguments]
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
    assert len(summary) == 2 * 1 * 2 * 2 * 2 * 4
    assert not summary.duplicated(names).any()
    assert set(summary["model"]) == {"resnet8", "mine"}


def test_the_counted_sparsity_is_the_rate(summary):
    exact = summary[summary["mode"] == "none"]
    numpy.testing.assert_allclose(exact["sparsity"], exact["rate"], atol=1e-3)
    assert (summary["sparsity"] >= summary["rate"] - 1e-3).all()


def test_rate_zero_is_the_dense_model_for_every_scope_and_recovery(summary):
    dense = summary[summary["rate"] == 0].drop(columns=["scope", "recovery"])
    assert len(dense) == 32
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
    promised |= {"scopes_accuracy", "quantization_comparison", "recovery_comparison"}
    promised |= {"training_history", "pareto", "sensitivity"}
    assert figures == promised


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


def test_nothing_runs_after_a_new_clone_changed_all_times(study):
    mine = [study / "my_model.py", study / "my_weights.pt", study / "config/config.yaml"]
    for path in [*(study / "scripts").rglob("*.py"), *(study / "workflow").rglob("*"), *mine]:
        os.utime(path)
    assert planned(study, "all") == {}


def test_nothing_runs_after_the_folder_was_moved(study):
    moved = study.rename(study.with_name("moved"))
    try:
        assert planned(moved, "all") == {}
    finally:
        moved.rename(study)


def test_nothing_runs_on_another_number_of_cores(study):
    assert planned(study, "all", "--cores", "1") == {}


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    """Return the content of every result that holds no time: data, models, predictions and accuracies."""
    timed = re.compile(r"(logs|benchmarks|plots)/|summary\.|.*\.(latency|eager)\.json$")
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if not timed.match(name)}


def test_a_study_of_a_part_in_another_folder_gives_the_same_bytes_up_to_times(study, tmp_path):
    for name in ("my_model.py", "my_weights.pt"):
        shutil.copy(study / name, tmp_path)
    (tmp_path / "config.yaml").write_text(CONFIG.replace("pruning: {", "pruning: {scopes: [global], "))
    snakemake(tmp_path, "--snakefile", str(study / "workflow/Snakefile"), "all", "--configfile", "config.yaml")
    whole, part = contents(study / "results"), contents(tmp_path / "results")
    assert len(part) > 60
    assert [name for name in part if part[name] != whole[name]] == []
    tables = [pandas.read_csv(folder / "results/summary.csv") for folder in (study, tmp_path)]
    whole, part = (table.loc[:, ~table.columns.str.contains("_ms|speedup|eager_to")] for table in tables)
    pandas.testing.assert_frame_equal(whole[whole["scope"] == "global"].reset_index(drop=True), part)


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


# What each rule's outputs lead to.
NEXT = {
    "prepare_data": "train train_import sensitivity prune recover recover_batchnorm quantize_export quantize "
    "quantize_qat evaluate_accuracy evaluate_latency",
    "train": "sensitivity prune quantize quantize_qat evaluate_latency_eager plot",
    "train_import": "sensitivity prune quantize quantize_qat evaluate_latency_eager",
    "sensitivity": "plot",
    "prune": "recover recover_batchnorm quantize_pruned quantize_qat_pruned",
    "recover_batchnorm": "quantize_pruned quantize_qat_pruned",
    "recover": "quantize_pruned quantize_qat_pruned",
    "quantize_pruned": "pack evaluate_accuracy evaluate_size evaluate_latency",
    "quantize_qat_pruned": "pack evaluate_accuracy evaluate_size evaluate_latency",
    "quantize_export": "quantize",
    "quantize_qat": "pack evaluate_accuracy evaluate_size evaluate_latency",
    "quantize": "pack evaluate_accuracy evaluate_size evaluate_latency evaluate_latency_eager",
    "pack": "evaluate_size",
    "evaluate_accuracy": "summarize",
    "evaluate_size": "summarize",
    "evaluate_latency": "summarize",
    "evaluate_latency_eager": "summarize",
    "summarize": "plot",
}
BUILDS = (
    "train train_import sensitivity prune recover recover_batchnorm quantize_export quantize_qat evaluate_latency_eager"
)
# Not in the tiny study: their jobs would take a minute.
ABSENT = {"recover_batchnorm", "quantize_qat", "quantize_qat_pruned"}
RULES = [*(rule for rule in NEXT if rule not in ABSENT and not rule.endswith("_pruned")), "plot"]
ALL = " ".join(RULES)
# The rules whose scripts use each module.
USED_BY = {
    "__init__": "",
    "channels": "prune",
    "checkpoints": BUILDS,
    "configuration": "",
    "data": f"prepare_data {BUILDS} quantize evaluate_accuracy evaluate_latency",
    "downloads": "prepare_data",
    "drawing": "plot",
    "errors": ALL,
    "export": "quantize_export quantize_qat",
    "fake_quantization": "quantize_qat",
    "figures": "plot",
    "figures_pareto": "plot",
    "figures_pruning": "plot",
    "figures_quantization": "plot",
    "figures_sensitivity": "plot",
    "figures_training": "plot",
    "files": ALL,
    "image_folder": "prepare_data",
    "job": ALL,
    "measure": "evaluate_accuracy evaluate_latency evaluate_latency_eager",
    "models": BUILDS,
    "narrowing": BUILDS,
    "onnx_contents": "quantize quantize_qat evaluate_size",
    "onnx_graph": "quantize quantize_qat quantize_export",
    "onnx_strip": "quantize quantize_qat",
    "onnx_tensors": "pack evaluate_size",
    "progress": "prepare_data train recover sensitivity quantize_qat",
    "pruning": "prune recover recover_batchnorm sensitivity quantize_qat",
    "qat": "quantize_qat",
    "quantization": "quantize quantize_qat",
    "recovery": "recover recover_batchnorm",
    "statistics": "summarize quantize_qat",
    "study": "plot",
    "training": "train recover recover_batchnorm sensitivity quantize_qat",
    "training_state": "train recover recover_batchnorm sensitivity quantize_qat",
}


def with_what_follows(rules: str) -> set[str]:
    """Return the rules and all that use their outputs, directly or not."""
    found, waiting = set(), set(rules.split()) - ABSENT
    while waiting:
        found |= waiting
        waiting = {name for rule in waiting for name in NEXT.get(rule, "").split()} - found - ABSENT
    return {rule.removesuffix("_pruned") for rule in found}


def test_the_modules_are_all_in_the_table():
    assert {path.stem for path in (REPOSITORY / "scripts/elagage").glob("*.py")} == set(USED_BY)


def test_the_rules_that_use_a_module_know_its_checksum(study):
    used_by = {module: set() for module in USED_BY}
    for path in (study / ".snakemake/metadata").iterdir():
        record = json.loads(path.read_text())
        for name, checksum in re.findall(r"(\w+):([0-9a-f]{16})", " ".join(record["params"])):
            if name in used_by:
                used_by[name].add(record["rule"])
                content = (study / f"scripts/elagage/{name}.py").read_bytes()
                assert hashlib.sha256(content).hexdigest().startswith(checksum)
    assert used_by == {module: set(rules.split()) - ABSENT for module, rules in USED_BY.items()}


@pytest.mark.parametrize("module", ["files", "configuration", "export", "models", "statistics", "study"])
def test_an_edited_module_reruns_the_rules_that_use_it(study, module):
    with edited(study / f"scripts/elagage/{module}.py"):
        assert set(planned(study, "all")) == with_what_follows(USED_BY[module])


@pytest.mark.parametrize("rule", RULES)
def test_an_edited_script_reruns_its_rule(study, rule):
    with edited(study / f"scripts/{rule}.py"):
        assert set(planned(study, "all")) == with_what_follows(rule)


@pytest.mark.parametrize(
    ("old", "new", "first"),
    [
        ("{name: digits}", "{name: digits, validation_fraction: 0.2}", "prepare_data"),
        ("{name: digits}", "{name: digits, image_size: 9}", "prepare_data"),
        ("{epochs: 2}", "{epochs: 3}", "train"),
        ("{epochs: 2}", "{epochs: 2, learning_rate: 0.2}", "train"),
        ("retraining: {epochs: 1}", "retraining: {epochs: 2}", "recover"),
        ("retraining: {epochs: 1}", "retraining: {epochs: 1, batchnorm_images: 99}", ""),
        ("calibration_images: 64", "calibration_images: 65", "quantize"),
        ("modes: [none, dynamic, dynamic_conv, static]", "modes: [none, dynamic, static]", "quantize"),
        ("latency_images: 40", "latency_images: 41", "evaluate_latency evaluate_latency_eager"),
        ("latency_images: 40", "latency_images: 40, threads: 2", "evaluate_latency evaluate_latency_eager"),
        ("rates: [0.0, 0.5]", "rates: [0.0]", "summarize"),
        ("evaluation:", "sensitivity: {images: 20}\nevaluation:", "sensitivity"),
    ],
)
def test_a_changed_parameter_reruns_its_stage(study, old, new, first):
    with edited(study / "config/config.yaml", old, new):
        assert set(planned(study, "all")) == with_what_follows(first)


def test_recovery_batchnorm_starts_from_each_pruned_checkpoint(study):
    with edited(study / "config/config.yaml", "finetune]", "finetune, batchnorm]"):
        jobs = planned(study, "all")
    assert jobs["recover_batchnorm"] == jobs["quantize"] == jobs["evaluate_accuracy"] == 4
    assert not {"train", "train_import", "prune", "recover", "quantize_export"} & set(jobs)


def test_mode_qat_trains_each_checkpoint_once_and_leaves_the_other_modes(study):
    with edited(study / "config/config.yaml", "static]", "static, qat]"):
        jobs = planned(study, "all")
    assert jobs["quantize_qat"] == jobs["evaluate_accuracy"] == 10
    assert not {"train", "train_import", "prune", "quantize_export", "quantize"} & set(jobs)


def test_an_edited_model_file_reruns_what_builds_that_model(study):
    with edited(study / "my_model.py"):
        jobs = planned(study, "all")
    assert jobs["train_import"] == jobs["quantize_export"] == jobs["evaluate_latency_eager"] == 1
    assert jobs["prune"] == jobs["recover"] == 2
    assert jobs["sensitivity"] == 1
    assert "train" not in jobs


def test_a_changed_image_of_the_same_size_reruns_the_data_set(study, tmp_path):
    for split, name, shade in itertools.product(("train", "test"), ("dark", "bright"), range(20)):
        image = PIL.Image.new("L", (8, 8), shade + 100 * (name == "bright"))
        path = tmp_path / "images" / split / name / f"{shade}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    (tmp_path / "config.yaml").write_text(
        "dataset: {name: image_folder, path: images, image_size: 8}\n"
        "quantization: {modes: [none]}\n"
        "evaluation: {latency_images: 20}\n"
    )
    place = "--snakefile", str(study / "workflow/Snakefile")
    target = "results/data/dataset.json", "--configfile", "config.yaml"
    snakemake(tmp_path, *place, *target)
    assert planned(tmp_path, *place, *target) == {}
    image = tmp_path / "images/test/dark/3.bmp"
    before, times = image.read_bytes(), image.stat()
    image.write_bytes(before[:-1] + b"\x07")
    os.utime(image, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert planned(tmp_path, *place, *target) == {"prepare_data": 1}
    image.write_bytes(before)
    assert planned(tmp_path, *place, *target) == {}
    shutil.copytree(tmp_path / "images", tmp_path / "copy")
    shutil.rmtree(tmp_path / "images")
    (tmp_path / "copy").rename(tmp_path / "images")
    assert planned(tmp_path, *place, *target) == {}
    image.rename(image.with_name("renamed.bmp"))
    assert planned(tmp_path, *place, *target) == {"prepare_data": 1}


def test_an_edited_file_that_the_model_file_imports_reruns_what_builds_that_model(study):
    (study / "my_layers.py").write_text("WIDTH = 8\n")
    with edited(study / "my_model.py", new="import my_layers\n"):
        snakemake(study, "--touch", "all")
        assert planned(study, "all") == {}
        (study / "my_layers.py").write_text("WIDTH = 9\n")
        jobs = planned(study, "all")
    assert jobs["train_import"] == jobs["quantize_export"] == 1
    assert "train" not in jobs
    snakemake(study, "--touch", "all")


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
        "sensitivity": 2,
        "prune": 4,
        "recover": 4,
        "quantize": 8,
        "pack": 8,
        "evaluate_accuracy": 8,
        "evaluate_size": 8,
        "evaluate_latency": 8,
        "summarize": 1,
        "plot": 1,
    }
    assert "global 0.7" in output
    assert "global 0.5" not in output


def test_iterative_is_a_chain_of_rates_whose_zeros_last(study, tmp_path):
    for name in ("my_model.py", "my_weights.pt"):
        shutil.copy(study / name, tmp_path)
    (tmp_path / "config.yaml").write_text(
        "models: {mine: {architecture: 'my_model.py:build', weights: my_weights.pt}}\n"
        "training: {epochs: 2}\n"
        "pruning: {scopes: [global], rates: [0.8, 0.5, 0.7], recovery: [iterative]}\n"
        "retraining: {epochs: 1}\n"
    )
    place = "--snakefile", str(study / "workflow/Snakefile"), "--configfile", "config.yaml"
    folder = "results/models/mine/seed0/global"
    snakemake(tmp_path, f"{folder}/0.8/iterative.safetensors", *place)
    chain = ["0.5/none", "0.5/rewind", "0.7/iterative_pruned", "0.7/iterative", "0.8/iterative_pruned", "0.8/iterative"]
    assert sorted(str(path) for path in (tmp_path / folder).rglob("*.safetensors")) == sorted(
        str(tmp_path / folder / f"{step}.safetensors") for step in chain
    )
    states = [load_file(tmp_path / folder / f"{step}.safetensors") for step in chain]
    for name, tensor in states[0].items():
        if tensor.dim() > 1:
            zeros = [state[name] == 0 for state in states]
            for before, after in itertools.pairwise(zeros):
                assert (after >= before).all()
    shares = [
        torch.cat([tensor.ravel() for tensor in state.values() if tensor.dim() > 1]).eq(0).float().mean().item()
        for state in states
    ]
    assert shares == pytest.approx([0.5, 0.5, 0.7, 0.7, 0.8, 0.8], abs=2e-3)
    assert not torch.equal(states[2]["stem.weight"], states[3]["stem.weight"])


def test_another_seed_trains_again_but_for_a_model_with_weights(study):
    with edited(study / "config/config.yaml", "training:", "seeds: [0, 1]\ntraining:"):
        assert planned(study, "all")["train"] == 1
        assert "train_import" not in planned(study, "all")


@pytest.mark.parametrize("model", ["resnet8", "mine"])
def test_channels_are_removed_exported_and_quantized(study, model):
    folder = study / f"results/models/{model}/seed0/channel"
    snakemake(study, str(folder.relative_to(study) / "0.5/none-static.onnx"))
    size = {mode: (folder / f"0.5/none-{mode}.onnx").stat().st_size for mode in ("none", "static")}
    dense = {mode: (folder.parent / f"dense-{mode}.onnx").stat().st_size for mode in ("none", "static")}
    session = onnxruntime.InferenceSession(folder / "0.5/none-static.onnx")
    images = numpy.load(study / "results/data/test_images.npy")
    shutil.rmtree(folder)
    assert session.run(None, {"image": images[:7]})[0].shape == (7, 10)
    assert all(size[mode] < dense[mode] for mode in size)
    provenance = json.loads(session.get_modelmeta().custom_metadata_map["provenance"])
    assert 0.4 < 1 - provenance["weights"] / provenance["dense_weights"] < 0.6
    assert planned(study, "all") == {}


@pytest.mark.parametrize(
    ("recovery", "pruned"),
    [
        ("none", "none"),
        ("batchnorm", "none"),
        ("finetune", "none"),
        ("rewind", "none"),
        ("iterative", "iterative_pruned"),
    ],
)
def test_a_retrained_checkpoint_has_the_graph_of_what_was_pruned(study, recovery, pruned):
    folder = study / "results/models/mine/seed0/channel/0.5"
    folder.mkdir(parents=True)
    (folder / f"{recovery}.safetensors").touch()
    target = str(folder.relative_to(study) / f"{recovery}-none.onnx")
    output = snakemake(study, "--dry-run", target)
    shutil.rmtree(folder.parent)
    exports = set(re.findall(r"Export (\S*graph\.onnx)", output))
    assert exports == {f"results/models/mine/seed0/channel/0.5/{pruned}.graph.onnx"}


def test_promised_targets_can_be_named(study):
    assert planned(study, "results/plots/global_pruning_accuracy.png") == {}


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_plans_the_default_study(profile, tmp_path):
    option, _, folder = PROFILES[profile].partition("=")
    config = REPOSITORY / "config/config.yaml"
    place = "--snakefile", str(REPOSITORY / "workflow/Snakefile"), "--configfile", str(config)
    jobs = planned(tmp_path, *place, option, str(REPOSITORY / folder))
    assert jobs["train"] == 1
    assert jobs["prune"] == 18
    assert jobs["quantize"] == 19
    assert jobs["evaluate_latency"] == 19
    assert jobs["sensitivity"] == 1


@pytest.mark.parametrize("name", ["recovery", "cifar10", "cifar100"])
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
