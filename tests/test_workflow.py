"""The workflow as users run it: a tiny real study from images to figures, and what reruns after a change."""

import base64
import contextlib
import itertools
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

import numpy
import onnxruntime
import pandas
import pytest
import torch
import yaml
from PIL import Image
from runners import planned, snakemake
from safetensors.torch import load_file

from elagage.code_checksum import digest, source_files
from elagage.configuration import configuration
from elagage.files import sha256
from elagage.plan import graph
from elagage.pytorch.models import build_network

REPOSITORY = pathlib.Path(__file__).parent.parent
EXAMPLE = REPOSITORY / "examples/own_model"
PROFILES = {"default": "--workflow-profile=workflow/profiles/default", "slurm": "--profile=slurm"}
EVALUATION = "evaluate_accuracy", "evaluate_latency", "evaluate_latency_eager"  # what runs a network
ANSWER = "order", "certify", "lost_images", "deploy"
TAKEN_OVER = {
    "control": "recover",
    "prune_again": "prune",
    "prune_channels_again": "prune_channels",
    "quantize_export_channel": "quantize_export",
}
QUOTES = '"""'  # of a docstring
TINY = """
dataset: {name: digits}
models:
  mine: {architecture: "my_model.py:build"}
training: {epochs: 2, batch_size: 32}
pruning: {rates: [0.0, 0.5], recovery: [finetune]}
retraining: {epochs: 1}
quantization: {modes: [float32, static], calibration_images: 64}
evaluation: {latency_images: 40}
"""
WIDE = """
dataset: {name: digits}
models:
  resnet8: {architecture: resnet8}
  mine: {architecture: "my_model.py:build", weights: my_weights.pt}
training: {epochs: 2}
pruning: {scopes: [global], rates: [0.0, 0.5], recovery: [none, finetune]}
retraining: {epochs: 1}
quantization: {modes: [float32, dynamic, dynamic_conv, static, mixed], calibration_images: 64}
evaluation: {latency_images: 40}
"""


def own_model(folder: pathlib.Path) -> None:
    """Put the example's network into the folder, with weights for digits as torch.save and DataParallel leave them."""
    shutil.copy(EXAMPLE / "my_model.py", folder)
    shutil.copytree(EXAMPLE / "layers", folder / "layers", ignore=shutil.ignore_patterns("__pycache__"))
    network = torch.nn.DataParallel(build_network(f"{EXAMPLE}/my_model.py:build", 10, 1))
    torch.save({"state_dict": network.state_dict(), "epoch": 3}, folder / "my_weights.pt")


def finished_study(folder: pathlib.Path, config: str) -> pathlib.Path:
    """Return the folder, now a copy of the repository in which the study of that configuration has run."""
    for name in ("workflow", "scripts", "envs"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "config").mkdir()
    (folder / "config/config.yaml").write_text(config)
    own_model(folder)
    (folder / "terminal.txt").write_text(snakemake(folder, "all"))
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> pathlib.Path:
    """A study of the example's network, which it trains."""
    return finished_study(tmp_path_factory.mktemp("tiny"), TINY)


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> pathlib.Path:
    """A study of two networks, one with weights, of one scope, with and without retraining, in four modes."""
    return finished_study(tmp_path_factory.mktemp("wide"), WIDE)


@pytest.fixture(params=["tiny", pytest.param("wide", marks=pytest.mark.slow)])
def study(request) -> pathlib.Path:
    return request.getfixturevalue(request.param)


@pytest.fixture
def listed(study) -> dict:
    """The study's configuration, its scopes among it."""
    stated = yaml.safe_load((study / "config/config.yaml").read_text())
    stated["pruning"].setdefault("scopes", ["local", "global"])
    return stated


@pytest.fixture
def summary(study) -> pandas.DataFrame:
    """The rows of the variants."""
    table = pandas.read_csv(study / "results/summary.csv", keep_default_na=False)
    return table[table["scope"] != ""]


# --- results


def test_the_summary_has_every_combination_once(summary, listed):
    values = {
        "model": listed["models"],
        "scope": listed["pruning"]["scopes"],
        "rate": listed["pruning"]["rates"],
        "recovery": listed["pruning"]["recovery"],
        "mode": listed["quantization"]["modes"],
    }
    rows = list(summary[list(values)].itertuples(index=False, name=None))
    assert sorted(rows) == sorted(itertools.product(*values.values()))


def test_the_counted_sparsity_is_the_rate(summary):
    exact = summary[summary["mode"] == "float32"]
    numpy.testing.assert_allclose(exact["sparsity"], exact["rate"], atol=1e-3)
    assert (summary["sparsity"] >= summary["rate"] - 1e-3).all()


def test_rate_zero_is_the_dense_model_for_every_scope_and_recovery(summary, listed):
    """Or, of a recovery that trains, its control."""
    dense = summary[summary["rate"] == 0].drop(columns=["scope", "recovery"])
    choices = listed["models"], listed["quantization"]["modes"], listed["pruning"]["recovery"]
    assert len(dense.drop_duplicates()) == len(list(itertools.product(*choices)))
    scopes = len(listed["pruning"]["scopes"])
    assert len(dense) == scopes * len(dense.drop_duplicates())
    controls = dense["file"].str.contains("/control/finetune/1-")
    assert controls.sum() == scopes * len(listed["models"]) * len(listed["quantization"]["modes"])


def test_the_reference_is_in_the_summary_whatever_the_study_asks_for(study):
    table = pandas.read_csv(study / "results/summary.csv", keep_default_na=False)
    reference = json.loads((study / "results/answer.json").read_text())["reference"]["file"]
    assert reference in set(table["file"])
    assert table["file"].isin(table["reference"]).any()


def test_measurements_are_plausible(summary):
    assert (summary["accuracy_low"] <= summary["accuracy"]).all()
    assert (summary["accuracy"] <= summary["accuracy_high"]).all()
    assert (summary["inference_time_ms"] > 0).all()
    assert (summary["test_images"] == 1000).all()
    static = summary[summary["mode"] == "static"]
    assert (static["int8_weights"] == static["weights"]).all()


@pytest.mark.slow
def test_int8_takes_less_than_half_the_room(wide):
    summary = pandas.read_csv(wide / "results/summary.csv")
    sizes = summary.pivot_table(index=["model", "scope", "rate"], columns="mode", values="model_size_bytes")
    assert (sizes.loc["resnet8", "static"] < 0.5 * sizes.loc["resnet8", "float32"]).all()


def test_a_trained_network_beats_chance(summary, listed):
    trained = [name for name, model in listed["models"].items() if "weights" not in model]
    dense = summary[summary["model"].isin(trained) & (summary["rate"] == 0) & (summary["mode"] == "float32")]
    assert len(dense)
    assert (dense["accuracy_low"] > 0.2).all()  # of 10 classes


def test_all_promised_figures_are_drawn(study, listed):
    figures = {path.stem for path in (study / "results/plots").glob("*.png")}
    promised = {
        f"{scope}_pruning_{metric}"
        for scope in listed["pruning"]["scopes"]
        for metric in ("accuracy", "model_size", "inference_time")
    }
    promised |= {"quantization_comparison", "training_history", "pareto", "sensitivity", "sensitivity_int8"}
    promised |= {"scopes_accuracy"} if len(listed["pruning"]["scopes"]) > 1 else set()
    promised |= {"recovery_comparison"} if len(listed["pruning"]["recovery"]) > 1 else set()
    assert figures == promised


def test_an_onnx_file_stands_on_its_own(study):
    stem = study / "results/models/mine/seed0/global/0.5/finetune-static"
    session = onnxruntime.InferenceSession(f"{stem}.onnx")
    image, logits = session.get_inputs()[0], session.get_outputs()[0]
    assert (image.name, image.type, image.shape) == ("image", "tensor(uint8)", ["batch", 1, 8, 8])
    assert (logits.name, logits.type) == ("logits", "tensor(float)")
    metadata = session.get_modelmeta().custom_metadata_map
    assert set(metadata) == {"classes", "preprocessing", "provenance"}
    images = numpy.load(study / "results/data/test_images.npy")
    predicted = numpy.load(f"{stem}.predictions.npy")
    assert (session.run(None, {"image": images})[0].argmax(1) == predicted).all()


def test_the_answer_is_a_folder_that_works_by_itself(study, tmp_path):
    answer = json.loads((study / "results/answer.json").read_text())
    images = numpy.load(study / "results/data/test_images.npy")
    names = [f"{number}.png" for number in range(20)]
    for name, image in zip(names, images, strict=False):
        Image.fromarray(image[0]).save(tmp_path / name)
    for objective, chosen in answer["answers"].items():
        folder = shutil.copytree(study / f"results/best/{objective}", tmp_path / objective)
        model = (folder / "model.onnx").read_bytes()
        assert model == (study / chosen["file"]).read_bytes()
        run = subprocess.run(
            [sys.executable, f"{objective}/predict.py", *names],
            cwd=tmp_path,
            check=True,
            capture_output=True,
            text=True,
        )
        predicted = numpy.load((study / chosen["file"]).with_suffix(".predictions.npy"))[: len(names)]
        assert [line.split()[1] for line in run.stdout.splitlines()] == [str(number) for number in predicted]
        unpack = [sys.executable, "unpack.py", "model.onnx.packed", "again.onnx"]
        subprocess.run(unpack, cwd=folder, check=True)
        assert (folder / "again.onnx").read_bytes() == model
        card = (folder / "README.md").read_text()
        for name in ("model.onnx", "model.onnx.packed", "predict.py", "unpack.py"):
            assert f"| {name} | {sha256(folder / name)} |" in card


def test_the_configuration_in_a_model_card_makes_the_same_study_again(study, listed):
    card = (study / "results/best/time/README.md").read_text()
    quoted = yaml.safe_load(re.findall(r"```json\n(.*?)```", card, re.DOTALL)[-1])
    schema = study / "workflow/schemas/config.schema.yaml"
    same = [configuration([stated], str(schema), print) for stated in (quoted, listed)]
    assert same == [quoted, quoted]


def test_the_terminal_ends_with_the_answer(study):
    sentences = json.loads((study / "results/answer.json").read_text())["sentences"]
    lines = (study / "terminal.txt").read_text().splitlines()
    assert lines[-1 - len(sentences) : -1] == sentences
    assert (study / lines[-1].rpartition(" ")[2]).is_file()


def test_a_study_in_another_folder_ends_with_the_answer_too(tiny, tmp_path):
    """As `make study` runs it: at its end Snakemake leaves the folder of the study."""
    place = "--directory", str(tiny), "--snakefile", str(tiny / "workflow/Snakefile")
    config = "--configfile", str(tiny / "config/config.yaml")
    output = snakemake(tmp_path, "results/best/time/README.md", "--forcerun", "deploy", *place, *config)
    assert output.splitlines()[-1].endswith(str(tiny / "results/report.html"))
    assert "Traceback" not in output


def test_a_run_that_does_not_ask_for_the_answer_does_not_end_with_it(study):
    assert "on a page to send" not in snakemake(study, "results/check.md", "--forcerun", "check")


@pytest.mark.slow
def test_a_model_with_weights_is_not_trained(wide):
    assert not (wide / "results/models/mine/seed0/history.csv").exists()
    assert not (wide / "results/logs/train/mine").exists()


def test_every_rule_leaves_logs_and_no_job_a_temporary_file(study):
    logs = list((study / "results/logs").rglob("*.log"))
    assert all("MiB of memory at its peak" in log.read_text() for log in logs)
    assert {path.stem for path in (study / "results/logs").iterdir()} == rules(study)
    assert not [path for path in (study / "results").rglob(".*")]


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    """Return the content of every result that holds no time: data, models, predictions and accuracies."""
    timed = re.compile(
        r"(logs|benchmarks|plots|check|answer|best)/|(summary|answer|report)\.|check\.md|.*\.(latency|eager)\.json$"
    )
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if not timed.match(name)}


@pytest.mark.slow
def test_a_study_of_a_part_in_another_folder_on_one_core_gives_the_same_bytes_up_to_times(tiny, tmp_path):
    """Small batches are trained by one thread, whatever the number of cores."""
    own_model(tmp_path)
    (tmp_path / "config.yaml").write_text(TINY.replace("pruning: {", "pruning: {scopes: [global], "))
    place = "--snakefile", str(tiny / "workflow/Snakefile"), "--configfile", "config.yaml"
    snakemake(tmp_path, "--cores", "1", "all", *place)
    whole, part = contents(tiny / "results"), contents(tmp_path / "results")
    assert len(part) > 30
    assert [name for name in part if part[name] != whole[name]] == []
    tables = [pandas.read_csv(folder / "results/summary.csv") for folder in (tiny, tmp_path)]
    whole, part = (
        table.loc[:, ~table.columns.str.contains("_ms|speedup|eager_to|machine_busy|time_share|time_by")]
        for table in tables
    )
    pandas.testing.assert_frame_equal(whole[whole["scope"] != "local"].reset_index(drop=True), part)
    command = [sys.executable, str(REPOSITORY / "tools/compare_studies.py"), str(tiny), str(tmp_path)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "All files that both have are the same, byte for byte." in text
    assert re.search(r"accuracy, image by image +5 +0 +0", text)
    assert "trained on" not in text


@pytest.mark.slow
def test_iterative_is_a_chain_of_rates_whose_zeros_last(wide, tmp_path):
    own_model(tmp_path)
    (tmp_path / "config.yaml").write_text(
        "models: {mine: {architecture: 'my_model.py:build', weights: my_weights.pt}}\n"
        "training: {epochs: 2}\n"
        "pruning: {scopes: [global], rates: [0.8, 0.5, 0.7], recovery: [iterative]}\n"
        "retraining: {epochs: 1}\n"
    )
    place = "--snakefile", str(wide / "workflow/Snakefile"), "--configfile", "config.yaml"
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


@pytest.mark.slow
def test_channels_are_removed_exported_and_quantized(wide, tmp_path):
    study = shutil.copytree(wide, tmp_path / "study")
    folders = [study / f"results/models/{model}/seed0" for model in ("resnet8", "mine")]
    snakemake(study, *(str(folder.relative_to(study) / "channel/0.5/none-static.onnx") for folder in folders))
    images = numpy.load(study / "results/data/test_images.npy")
    for folder in folders:
        size = {mode: (folder / f"channel/0.5/none-{mode}.onnx").stat().st_size for mode in ("float32", "static")}
        dense = {mode: (folder / f"dense-{mode}.onnx").stat().st_size for mode in size}
        session = onnxruntime.InferenceSession(folder / "channel/0.5/none-static.onnx")
        assert session.run(None, {"image": images[:7]})[0].shape == (7, 10)
        assert all(size[mode] < dense[mode] for mode in size)
        provenance = json.loads(session.get_modelmeta().custom_metadata_map["provenance"])
        assert 0.4 < 1 - provenance["weights"] / provenance["dense_weights"] < 0.6


@pytest.mark.slow
def test_the_report_holds_the_figures(wide):
    snakemake(wide, "--report", "report.html")
    report = (wide / "report.html").read_text()
    assert "global_pruning_accuracy.png" in report
    assert "Wilson" in report


# --- what runs again


def records(study: pathlib.Path) -> list[dict]:
    """Return what Snakemake recorded of each output, its path under the key `output`."""
    files = (study / ".snakemake/metadata").iterdir()
    return [json.loads(file.read_text()) | {"output": base64.b64decode(file.name).decode()} for file in files]


def rules(study: pathlib.Path) -> set[str]:
    """Return the rules that a study has run."""
    return {record["rule"] for record in records(study)}


def with_what_follows(study: pathlib.Path, first: set[str]) -> set[str]:
    """Return the rules and all whose jobs read what they made, directly or not, as Snakemake recorded it."""
    made = {record["output"]: record for record in records(study)}
    files = {file for file, record in made.items() if record["rule"] in first}
    # What trains waits for the check, but does not run again because of it.
    read = {
        file: [i for i in made[file]["input"] if made[file]["rule"] == "check" or "/check/" not in i] for file in made
    }
    while more := {file for file in made if files.intersection(read[file])} - files:
        files |= more
    return {made[file]["rule"] for file in files}


def users(study: pathlib.Path, module: str) -> set[str]:
    """Return the rules that a study has run whose scripts import a module of scripts/, by the code."""
    scripts = study / "scripts"
    return {rule for rule in rules(study) if scripts / module in source_files(script(study, rule), (scripts,))}


def script(study: pathlib.Path, rule: str) -> pathlib.Path:
    """Return the script of a rule; a rule that takes over another one has that one's."""
    return study / f"scripts/{TAKEN_OVER.get(rule, rule)}.py"


def params_changed(output: str) -> set[str]:
    """Return the rules of which a dry run starts jobs because their own parameters changed."""
    listed = re.search(r"^ +params have changed since last execution:\n +(.*)$", output, re.MULTILINE)
    return set(listed[1].split(", ")) if listed else set()


@contextlib.contextmanager
def replaced(contents: dict[pathlib.Path, str | bytes]) -> Iterator[None]:
    """Within the block the files have these contents; then they are as before, their times too."""
    before = {path: (path.read_bytes(), path.stat()) for path in contents}
    for path, content in contents.items():
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    try:
        yield
    finally:
        for path, (content, times) in before.items():
            path.write_bytes(content)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def with_code(*paths: pathlib.Path) -> dict[pathlib.Path, str]:
    """Return the contents of Python files with one more statement."""
    return {path: path.read_text() + "EDITED = True\n" for path in paths}


def configured(study: pathlib.Path, old: str, new: str):
    """Return a context in which the study's configuration is changed."""
    path = study / "config/config.yaml"
    text = path.read_text()
    assert old in text
    return replaced({path: text.replace(old, new, 1)})


def own_files(study: pathlib.Path) -> list[pathlib.Path]:
    """Return the Python files of the user's model."""
    return [study / "my_model.py", *(study / "layers").rglob("*.py")]


def test_nothing_runs_when_nothing_changed(tiny):
    assert planned(tiny, "all") == {}


def test_nothing_runs_after_a_new_clone_changed_all_times(tiny):
    for path in [*(tiny / "scripts").rglob("*.py"), *(tiny / "workflow").rglob("*"), *(tiny / "config").iterdir()]:
        os.utime(path)
    for path in own_files(tiny):
        os.utime(path)
    assert planned(tiny, "all") == {}


def test_nothing_runs_after_an_edit_of_comments_and_docstrings(tiny):
    files = [*(tiny / "scripts").rglob("*.py"), *own_files(tiny)]
    texts = {path: path.read_text() for path in files}
    with replaced({path: f"{text.replace(QUOTES, QUOTES + 'Edited: ', 1)}# edited\n" for path, text in texts.items()}):
        assert planned(tiny, "all") == {}


@pytest.mark.slow
def test_nothing_runs_after_weights_have_another_time_or_the_folder_another_place_or_the_machine_other_cores(wide):
    os.utime(wide / "my_weights.pt")
    moved = wide.rename(wide.with_name("moved"))
    try:
        assert planned(moved, "all", "--cores", "1") == {}
    finally:
        moved.rename(wide)


def test_every_job_recorded_the_checksum_of_all_code_that_its_script_imports(study):
    scripts = study / "scripts"
    own = {os.path.relpath(path, study): digest(path.read_bytes()) for path in own_files(study)}
    code = {}
    for rule in rules(study):
        files = source_files(script(study, rule), (scripts,))
        code[rule] = {os.path.relpath(path, scripts): digest(path.read_bytes()) for path in files}
    builds = users(study, "elagage/pytorch/models.py")
    for record in records(study):
        builds_own = record["rule"] in builds and re.search("/mine[/.]", record["output"])
        needed = code[record["rule"]] | (own if builds_own else {})
        recorded = dict(re.findall(r"([\w/]+\.py):([0-9a-f]{16})", " ".join(record["params"])))
        assert recorded == {name: checksum[:16] for name, checksum in needed.items()}
        assert f"../../scripts/{script(study, record['rule']).name}" in record["code"]


def test_all_follows_from_the_data_and_all_measurements_from_the_variants(study):
    assert with_what_follows(study, {"prepare_data"}) == rules(study)
    measured = {"quantize", "pack", "evaluate_size", *EVALUATION, *ANSWER, "deploy", "summarize", "plot", "report_page"}
    assert with_what_follows(study, {"quantize"}) == measured


def test_an_edited_module_reruns_the_rules_that_use_it(tiny):
    first = users(tiny, "elagage/onnx/runtime.py")
    # quantize_export checks what it exports; calibrate, sensitivity_int8 and quantize measure what layers multiply.
    assert first == {"calibrate", "check_model", "quantize", "quantize_export", "sensitivity_int8", *EVALUATION}
    with replaced(with_code(tiny / "scripts/elagage/onnx/runtime.py")):
        assert set(planned(tiny, "all")) == with_what_follows(tiny, first)


@pytest.mark.slow
def test_edited_modules_that_no_rule_of_the_study_uses_rerun_nothing(wide):
    modules = [path for path in (wide / "scripts").rglob("*.py") if not users(wide, path.relative_to(wide / "scripts"))]
    assert {"plan.py", "configuration.py"} <= {path.name for path in modules}
    with replaced(with_code(*modules)):
        assert planned(wide, "all") == {}


@pytest.mark.slow
@pytest.mark.parametrize("edited", [("train", "train_import", "quantize_export"), ("sensitivity", "pack", *EVALUATION)])
def test_edited_scripts_rerun_their_rules(wide, edited):
    """Scripts of which none uses what another makes: Snakemake asks for changes only where all inputs stay."""
    with replaced(with_code(*(wide / f"scripts/{rule}.py" for rule in edited))):
        output = snakemake(wide, "--dry-run", "all")
    assert params_changed(output) == set(edited)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "first"),
    [
        ("{name: digits}", "{name: digits, validation_fraction: 0.2}", "prepare_data"),
        ("{name: digits}", "{name: digits, image_size: 9}", "prepare_data"),
        ("{epochs: 2}", "{epochs: 3}", "train check"),
        ("{epochs: 2}", "{epochs: 2, learning_rate: 0.2}", "train"),
        ("retraining: {epochs: 1}", "retraining: {epochs: 2}", "recover control check"),
        ("retraining: {epochs: 1}", "retraining: {epochs: 1, batchnorm_images: 99}", ""),
        ("calibration_images: 64", "calibration_images: 65", "calibrate sensitivity_int8 time_layers mix quantize"),
        (
            "modes: [float32, dynamic, dynamic_conv, static, mixed]",
            "modes: [float32, dynamic, static, mixed]",
            "quantize check_model",
        ),
        ("latency_images: 40", "latency_images: 41", "evaluate_latency evaluate_latency_eager check"),
        ("latency_images: 40", "latency_images: 40, threads: 2", "evaluate_latency evaluate_latency_eager time_layers"),
        ("latency_images: 40", "latency_images: 40, batch_sizes: [8]", "evaluate_latency"),
        ("rates: [0.0, 0.5]", "rates: [0.0]", "summarize check_model order certify lost_images"),
        ("evaluation:", "sensitivity: {images: 20}\nevaluation:", "sensitivity sensitivity_int8"),
    ],
)
def test_a_changed_parameter_reruns_its_stage(wide, old, new, first):
    with configured(wide, old, new):
        # The model cards and the page state the whole configuration.
        expected = with_what_follows(wide, set(first.split())) | {"deploy", "report_page"}
        assert set(planned(wide, "all")) == expected


@pytest.mark.slow
def test_a_module_of_training_reruns_all_that_builds_networks(wide):
    first = users(wide, "elagage/pytorch/models.py")
    assert {"train", "train_import", "sensitivity", "recover", "quantize_export"} < first
    with replaced(with_code(wide / "scripts/elagage/pytorch/models.py")):
        assert set(planned(wide, "all")) == with_what_follows(wide, first)


@pytest.mark.slow
@pytest.mark.parametrize("file", ["my_model.py", "layers/blocks.py"])
def test_an_edited_file_of_the_users_model_reruns_what_builds_that_model(wide, file):
    with replaced(with_code(wide / file)):
        jobs = planned(wide, "all")
    assert jobs["train_import"] == jobs["quantize_export"] == jobs["evaluate_latency_eager"] == 1
    assert jobs["prune"] == jobs["recover"] == 1
    assert jobs["sensitivity"] == 1
    assert "train" not in jobs


@pytest.mark.slow
def test_other_weights_rerun_that_model(wide):
    weights = wide / "my_weights.pt"
    with replaced({weights: weights.read_bytes() + b" "}):
        jobs = planned(wide, "all")
    assert jobs["train_import"] == 1
    assert jobs["prune"] == 1
    assert "train" not in jobs


@pytest.mark.slow
def test_a_changed_image_of_the_same_size_reruns_the_data_set(tmp_path):
    shutil.copytree(EXAMPLE / "images", tmp_path / "images")
    (tmp_path / "config.yaml").write_text(
        "dataset: {name: image_folder, path: images, image_size: 8}\n"
        "quantization: {modes: [float32]}\n"
        "evaluation: {latency_images: 20}\n"
    )
    snakefile = str(REPOSITORY / "workflow/Snakefile")
    target = "results/data/dataset.json", "--snakefile", snakefile, "--configfile", "config.yaml"
    snakemake(tmp_path, *target)
    image, *_ = (tmp_path / "images/test").rglob("*.png")
    before, times = image.read_bytes(), image.stat()
    image.write_bytes(before[:-1] + b"\x07")
    os.utime(image, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert planned(tmp_path, *target) == {"prepare_data": 1}
    image.write_bytes(before)
    shutil.copytree(tmp_path / "images", tmp_path / "copy", copy_function=shutil.copyfile)
    shutil.rmtree(tmp_path / "images")
    (tmp_path / "copy").rename(tmp_path / "images")
    assert planned(tmp_path, *target) == {}
    image.rename(image.with_name("renamed.png"))
    assert planned(tmp_path, *target) == {"prepare_data": 1}


# --- what runs for the first time


def test_one_more_rate_runs_that_rate_and_no_other(tiny):
    with configured(tiny, "[0.0, 0.5]", "[0.0, 0.5, 0.7]"):
        jobs = planned(tiny, "all")
    of_each_scope = ("prune", "recover", "quantize", "pack", "evaluate_accuracy", "evaluate_size", "evaluate_latency")
    once = ("check_model", "check", "sensitivity", *ANSWER, "summarize", "plot", "report_page")
    assert jobs == dict.fromkeys(of_each_scope, 2) | dict.fromkeys(once, 1)


@pytest.mark.slow
def test_one_more_rate_and_mode_and_the_known_accuracy_train_nothing_again(wide):
    config = wide / "config/config.yaml"
    text = config.read_text().replace("[0.0, 0.5]", "[0.0, 0.5, 0.7]").replace("[float32, ", "[float32, qat, ")
    with replaced({config: text.replace("my_weights.pt}", "my_weights.pt, accuracy: 0.1}")}):
        jobs = planned(wide, "all")
    assert jobs["recover"] == jobs["prune"] == 2  # at the new rate, of two models
    assert not {"train", "train_import", "quantize_export"} & set(jobs)
    assert jobs["quantize_qat"] == 2 * (2 + 2 * 2)  # dense and control, and two recoveries at two rates
    assert jobs["check_model"] == 2


@pytest.mark.slow
def test_a_check_that_was_interrupted_is_made_again_and_trains_nothing_again(wide):
    report = wide / "results/check/resnet8.json"
    content = report.read_bytes()
    report.unlink()
    try:
        jobs = planned(wide, "all")
        assert {"check_model", "check"} <= set(jobs)
        assert not {"train", "recover", "prune", "quantize"} & set(jobs)
    finally:
        report.write_bytes(content)


@pytest.mark.slow
def test_recovery_batchnorm_starts_from_each_pruned_checkpoint(wide):
    with configured(wide, "finetune]", "finetune, batchnorm]"):
        jobs = planned(wide, "all")
    assert jobs["recover_batchnorm"] == jobs["quantize"] == jobs["evaluate_accuracy"] == 2
    assert not {"train", "train_import", "prune", "recover", "quantize_export"} & set(jobs)


@pytest.mark.slow
def test_mode_qat_trains_each_checkpoint_once_and_leaves_the_other_modes(wide):
    with configured(wide, "mixed]", "mixed, qat]"):
        jobs = planned(wide, "all")
    assert jobs["quantize_qat"] == jobs["evaluate_accuracy"] == 8
    assert not {"train", "train_import", "prune", "quantize_export", "quantize"} & set(jobs)


@pytest.mark.slow
def test_mode_qat_takes_the_calibration_that_was_chosen(tmp_path):
    config = TINY.replace("rates: [0.0, 0.5], recovery: [finetune]", "rates: [0.0]").replace(
        "[float32, static]", "[qat]"
    )
    study = finished_study(tmp_path / "study", config.replace("calibration_images: 64", "qat_epochs: 1"))
    session = onnxruntime.InferenceSession(f"{study}/results/models/mine/seed0/dense-qat.onnx")
    provenance = json.loads(session.get_modelmeta().custom_metadata_map["provenance"])
    assert (provenance["mode"], provenance["qat_epochs"]) == ("qat", 1)


@pytest.mark.slow
def test_another_seed_trains_again_but_for_a_model_with_weights(wide):
    with configured(wide, "training:", "seeds: [0, 1]\ntraining:"):
        jobs = planned(wide, "all")
    assert jobs["train"] == 1
    assert "train_import" not in jobs


@pytest.mark.slow
def test_retrained_checkpoints_share_the_graph_of_what_was_pruned(wide, tmp_path):
    study = shutil.copytree(wide, tmp_path / "study")
    folder = "results/models/mine/seed0/channel/0.5"
    recoveries = ("none", "batchnorm", "reconstruct", "finetune", "rewind", "iterative")
    (study / folder).mkdir(parents=True)
    for recovery in recoveries:
        (study / folder / f"{recovery}.safetensors").touch()
    output = snakemake(study, "--dry-run", *(f"{folder}/{recovery}-float32.onnx" for recovery in recoveries))
    exports = re.findall(r"Export (\S*graph\.onnx)", output)
    assert sorted(set(exports)) == [f"{folder}/iterative_pruned.graph.onnx", f"{folder}/none.graph.onnx"]
    graphs = {recovery: graph("mine", "0", f"channel/0.5/{recovery}") for recovery in recoveries}
    assert graphs.pop("iterative") == f"{folder}/iterative_pruned.graph.onnx"
    assert set(graphs.values()) == {f"{folder}/none.graph.onnx"}


@pytest.mark.slow
def test_the_command_line_replaces_tables_of_the_file(tmp_path):
    """The README promises seeds=[0,1,2]."""
    (tmp_path / "config").mkdir()
    (tmp_path / "config/config.yaml").write_text("models: {first: {architecture: resnet8}}\npruning: {rates: [0.5]}\n")
    stated = ["seeds=[0,1,2]", "pruning={rates: [0.25]}", "models={other: {architecture: resnet8}}"]
    place = "--snakefile", str(REPOSITORY / "workflow/Snakefile")
    output = snakemake(tmp_path, *place, "--dry-run", "all", "--config", *stated)
    assert "results/models/other/seed2/global/0.25/none-float32.onnx" in output
    assert "results/models/first/" not in output
    assert "/0.5/" not in output


@pytest.mark.slow
def test_promised_targets_can_be_named(wide):
    assert planned(wide, "results/plots/global_pruning_accuracy.png") == {}


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_plans_the_default_study(profile, tmp_path):
    option, _, folder = PROFILES[profile].partition("=")
    config = REPOSITORY / "config/config.yaml"
    place = "--snakefile", str(REPOSITORY / "workflow/Snakefile"), "--configfile", str(config)
    jobs = planned(tmp_path, *place, option, str(REPOSITORY / folder))
    assert jobs["train"] == 1
    assert jobs["prune"] == 6
    assert jobs["prune_channels"] == 3
    assert jobs["recover"] == 9
    assert jobs["quantize"] == 11
    assert jobs["evaluate_latency"] == 11
    assert jobs["sensitivity"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", [file.parent.name for file in REPOSITORY.glob("examples/*/study.yaml")])
def test_the_configurations_on_offer_plan_a_study(name, tmp_path):
    folder = tmp_path / name
    shutil.copytree(REPOSITORY / "examples" / name, folder)
    snakefile = REPOSITORY / "workflow/Snakefile"
    jobs = planned(folder, "--snakefile", str(snakefile), "all", "--configfile", "study.yaml")
    assert jobs["plot"] == 1
