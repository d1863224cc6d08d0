"""The cluster profile on a real Slurm: whole studies, and what happens to killed jobs and drivers."""

import hashlib
import itertools
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pandas
import pytest
import slurm_cluster

REPOSITORY = pathlib.Path(__file__).parent.parent
CONFIG = """
dataset: {name: digits}
models: {mine: {architecture: "my_model.py:build"}}
training: {epochs: 4}
pruning: {scopes: [global], rates: [0.0, 0.5]}
quantization: {modes: [float32, static], calibration_images: 64}
evaluation: {latency_images: 40}
"""
# Hangs once, in the third of its epochs of 6 steps.
MODEL = """
import pathlib
import time

from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(in_channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.linear = nn.Linear(8, num_classes)
        self.steps = 0

    def forward(self, x):
        if self.training:
            self.steps += 1
            if self.steps > 14 and not pathlib.Path("hung").exists():
                pathlib.Path("hung").touch()
                time.sleep(3600)
        return self.linear(self.features(x).mean((2, 3)))


def build(num_classes, in_channels):
    return Net(num_classes, in_channels)
"""
# Seconds; the profile's are for clusters that thousands of people share.
QUICKLY = ["--slurm-init-seconds-before-status-checks", "2", "--latency-wait", "10"]
pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def slurm(tmp_path_factory) -> Iterator[dict[str, str]]:
    """The environment of a process that uses a cluster of this module's own.

    Where none can be started, the tests are skipped, or fail if ELAGAGE_REQUIRE_SLURM is set.
    """
    if why := slurm_cluster.missing():
        (pytest.fail if os.environ.get("ELAGAGE_REQUIRE_SLURM") else pytest.skip)(f"no Slurm on this machine: {why}")
    with slurm_cluster.cluster(tmp_path_factory.mktemp("cluster")) as variables:
        yield os.environ | variables | {"PATH": f"{pathlib.Path(sys.executable).parent}:{variables['PATH']}"}


@pytest.fixture(scope="module")
def disturbed(slurm, tmp_path_factory) -> pathlib.Path:
    """A study of which Slurm killed a job for its time, one for its memory, and a user one with scancel."""
    folder = new_study(tmp_path_factory.mktemp("disturbed"))
    # Expressions that grow, as the rules' own resources do, but from less than the jobs need.
    resources = ["--set-resources", "train:runtime=attempt", "quantize_export:mem_mb=300*attempt**2"]
    with open(folder / "driver.log", "w") as log:
        command = ["snakemake", "--profile", "slurm", "all", *QUICKLY, *resources]
        driver = subprocess.Popen(command, cwd=folder, env=slurm, stdout=log, stderr=subprocess.STDOUT)
        [sweep] = wait_for(lambda: running(slurm, folder, "sweep"), driver)
        subprocess.run(["scancel", sweep], env=slurm, check=True)
        driver.wait(900)
    assert driver.returncode == 0, (folder / "driver.log").read_text()[-5000:]
    return folder


@pytest.fixture(scope="module")
def abandoned(slurm, disturbed, tmp_path_factory) -> pathlib.Path:
    """A study whose driver ran in an allocation, was killed while a model was in training, and was started again."""
    folder = new_study(tmp_path_factory.mktemp("abandoned"))
    command = ["sbatch", "--parsable", "slurm/driver.sh", "all", *QUICKLY]

    def start() -> str:
        return subprocess.run(
            command, cwd=folder, env=slurm, stdout=subprocess.PIPE, text=True, check=True
        ).stdout.strip()

    first = start()
    wait_for((folder / "hung").exists)
    # What ends while it is being cancelled counts as cancelled, though its file is whole and not made again.
    wait_for(lambda: not running(slurm, folder, "quantize_export"))
    subprocess.run(["scancel", "--full", "--signal=KILL", first], env=slurm, check=True)
    wait_for(lambda: first not in running(slurm, folder))
    assert running(slurm, folder, "train"), "the training should outlive its driver"
    second = start()
    wait_for(lambda: second in running(slurm, folder))
    wait_for(lambda: second not in running(slurm, folder), limit=900)
    assert (folder / "results/summary.csv").exists(), (folder / "elagage-driver.log").read_text()[-5000:]
    return folder


def new_study(folder: pathlib.Path) -> pathlib.Path:
    """Return the folder with a copy of the repository's code, CONFIG and MODEL."""
    for name in ("workflow", "scripts", "envs", "slurm"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "config").mkdir()
    (folder / "config/config.yaml").write_text(CONFIG)
    (folder / "my_model.py").write_text(MODEL)
    return folder


def wait_for(condition: Callable, driver: subprocess.Popen | None = None, limit: float = 600):
    """Return the first true value of the condition; fail after `limit` seconds, or when the driver ends before."""
    end = time.monotonic() + limit
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {limit} s in vain"
        assert driver is None or driver.poll() is None, "the driver ended"
        time.sleep(0.5)
    return value


def accounting(slurm: dict[str, str], folder: pathlib.Path) -> pandas.DataFrame:
    """Return what sacct says of the Slurm jobs of a study, one row for each start of a job."""
    columns = [
        "JobID",
        "State",
        "Start",
        "End",
        "ReqCPUS",
        "ReqTRES",
        "AllocTRES",
        "TimelimitRaw",
        "Comment",
        "WorkDir",
    ]
    command = ["sacct", "--allocations", "--parsable2", "--duplicates", f"--format={','.join(columns)}"]
    lines = subprocess.run(command, env=slurm, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    table = pandas.DataFrame([line.split("|") for line in lines[1:]], columns=columns)
    return table[table["WorkDir"] == str(folder)]


def running(slurm: dict[str, str], folder: pathlib.Path, word: str = "") -> list[str]:
    """Return the ids of a study's Slurm jobs that are running, or ending, and have the word in their comment.

    sacct would show them only some time after their start.
    """
    command = ["squeue", "--noheader", "--states=RUNNING,COMPLETING", "--format=%i|%k|%Z"]
    lines = subprocess.run(command, env=slurm, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    found = [line.split("|") for line in lines]
    return [job for job, comment, place in found if place == str(folder) and word in comment]


def states_of(table: pandas.DataFrame, comment: str) -> list[str]:
    """Return the states, in order, in which the Slurm jobs with that word in their comment ended."""
    return [state.split()[0] for state in table.loc[table["Comment"].str.contains(comment), "State"]]


def checksums(folder: pathlib.Path) -> dict[str, str]:
    """Return the SHA-256 of every model file and prediction of a study, but for the answer, which depends on times."""
    places = [folder / "results/data", folder / "results/models"]
    endings = ("onnx", "safetensors", "npy")
    files = [path for place in places for ending in endings for path in place.rglob(f"*.{ending}")]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_training_killed_for_its_time_goes_on_in_a_longer_job(slurm, disturbed):
    table = accounting(slurm, disturbed)
    *failed, last = states_of(table, "rule_train")
    assert failed and set(failed) == {"TIMEOUT"}
    assert last == "COMPLETED"
    limits = table.loc[table["Comment"].str.contains("rule_train"), "TimelimitRaw"].astype(int).to_list()
    assert limits == list(range(1, len(limits) + 1))
    assert "resumed after epoch" in (disturbed / "results/logs/train/mine/seed0.log").read_text()


def test_a_job_killed_for_its_memory_is_started_with_more(slurm, disturbed):
    table = accounting(slurm, disturbed)
    *failed, last = states_of(table, "rule_quantize_export")
    assert failed
    assert last == "COMPLETED"
    # FAILED in the accounting: Snakemake, which waits in the job for the step that is killed, ends by itself.
    logs = (disturbed / "results/logs/slurm/rule_quantize_export").glob("*/*.log")
    assert ["Out Of Memory" in log.read_text() for log in logs] == [True] * len(failed)
    asked = table.loc[table["Comment"].str.contains("rule_quantize_export"), "ReqTRES"]
    memory = [int(re.search(r"mem=(\d+)M", text)[1]) for text in asked]
    assert memory == [300 * attempt**2 for attempt in range(1, len(memory) + 1)]


def test_a_job_cancelled_by_scancel_is_started_again(slurm, disturbed):
    assert states_of(accounting(slurm, disturbed), "sweep") == ["CANCELLED", "COMPLETED"]


def test_a_disturbed_study_is_whole(slurm, disturbed):
    summary = pandas.read_csv(disturbed / "results/summary.csv")
    assert len(summary) == 4
    assert not list((disturbed / "results").rglob(".*"))
    assert not list((disturbed / "results").rglob("*training_state*"))


def test_nothing_runs_again_afterwards(slurm, disturbed):
    command = ["snakemake", "--profile", "slurm", "all"]
    run = subprocess.run(command, cwd=disturbed, env=slurm, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert "Nothing to be done" in run.stdout


def test_a_driver_in_an_allocation_goes_on_where_a_killed_one_ended(slurm, abandoned):
    table = accounting(slurm, abandoned)
    assert states_of(table, "rule_train") == ["CANCELLED", "COMPLETED"]
    assert "cancelling jobs of an earlier driver" in (abandoned / "elagage-driver.log").read_text()
    assert "resumed after epoch" in (abandoned / "results/logs/train/mine/seed0.log").read_text()


def test_both_studies_end_with_the_same_bytes(disturbed, abandoned):
    first, second = checksums(disturbed), checksums(abandoned)
    assert len(first) == 1 + 2 + 4 + 8 + 6  # graph, checkpoints, variants, predictions of two splits, arrays
    assert first == second


def test_a_variant_needs_less_than_a_slurm_job(slurm, abandoned):
    table = accounting(slurm, abandoned)
    done = table[table["State"].str.startswith("COMPLETED") & table["Comment"].str.startswith("rule_")]
    # prepare_data, quantize_export, check_model, check, train, sensitivity, calibrate, prune, the sweep of 2
    # checkpoints, their timing, the answer, summary and figures
    assert len(done) == 12, table.to_string()


@pytest.mark.parametrize(("rates", "modes"), [(50, "float32"), (17, "float32, dynamic, static")])
def test_a_thousand_variants_need_less_than_150_slurm_jobs(slurm, tmp_path, rates, modes):
    folder = new_study(tmp_path / "study")
    (folder / "config/config.yaml").write_text(
        f"seeds: {list(range(10))}\n"
        f"pruning: {{scopes: [local, global], rates: {[rate / 100 for rate in range(rates)]}}}\n"
        f"quantization: {{modes: [{modes}]}}\n"
    )
    assert 10 * 2 * rates * len(modes.split(",")) >= 1000
    command = [sys.executable, REPOSITORY / "benchmarks/planned.py", "--profile", "slurm", "all"]
    planned = subprocess.run(command, cwd=folder, env=slurm, stdout=subprocess.PIPE, text=True, check=True).stdout
    assert int(re.search(r"in (\d+) Slurm jobs", planned)[1]) < 150


def test_training_and_sensitivity_ask_for_a_gpu_and_timings_for_a_whole_node(slurm, abandoned):
    table = accounting(slurm, abandoned)
    gpus = table["ReqTRES"].str.contains("gres/gpu=1")
    assert set(table.loc[gpus, "Comment"]) == {f"rule_{rule}_wildcards_mine_0" for rule in ("train", "sensitivity")}
    assert table.loc[gpus, "ReqTRES"].str.contains("cpu=32").all()
    [timing] = table.loc[table["Comment"].str.contains("timing"), "AllocTRES"]
    assert "cpu=64" in timing


def test_a_group_has_the_cores_of_one_of_its_jobs_because_they_run_one_after_the_other(slurm, abandoned):
    table = accounting(slurm, abandoned)
    groups = table[table["Comment"].str.contains("|".join(("prune", "sweep", "answer", "figures")))]
    assert len(groups) == 4
    assert set(groups["AllocTRES"].str.extract(r"cpu=(\d+)")[0]) == {"1"}


def test_nothing_runs_beside_a_timing(disturbed, abandoned):
    for study in (disturbed, abandoned):
        ends = {}
        for log in (study / "results/logs").rglob("evaluate_latency*/**/*.log"):
            ends[log] = log.stat().st_mtime, float(re.search(r"took ([\d.]+) s", log.read_text())[1])
        assert len(ends) == 3
        ordered = sorted(ends.values())
        for (end, _), (later, seconds) in itertools.pairwise(ordered):
            assert later - seconds >= end - 0.2  # the log's time and the job's clock differ by some milliseconds


def test_what_a_job_makes_after_its_driver_was_killed_is_known_to_be_current_or_not(slurm, tmp_path):
    folder = new_study(tmp_path / "study")
    command = ["snakemake", "--profile", "slurm", "results/data/dataset.json"]
    driver = subprocess.Popen([*command, *QUICKLY], cwd=folder, env=slurm, stdout=subprocess.DEVNULL)
    wait_for(lambda: running(slurm, folder), driver)
    driver.kill()
    driver.wait()
    wait_for(lambda: not running(slurm, folder))
    assert (folder / "results/data/dataset.json").exists()
    subprocess.run([*command, "--unlock"], cwd=folder, env=slurm, check=True)

    def plan() -> str:
        return subprocess.run(
            [*command, "--dry-run"], cwd=folder, env=slurm, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ).stdout

    assert "Nothing to be done" in plan()
    (folder / "config/config.yaml").write_text(CONFIG.replace("digits}", "digits, validation_fraction: 0.2}"))
    assert "Params have changed" in plan()


def test_a_second_driver_is_refused(slurm, abandoned):
    holder = subprocess.Popen(["flock", abandoned / ".snakemake/driver.lock", "sleep", "60"], start_new_session=True)
    try:
        time.sleep(1)
        run = subprocess.run(["slurm/driver.sh", "all"], cwd=abandoned, env=slurm, stderr=subprocess.PIPE, text=True)
    finally:
        os.killpg(holder.pid, signal.SIGKILL)
    assert run.returncode == 1
    assert "another driver runs" in run.stderr
