"""A study of which jobs and drivers are killed at random moments ends with the results of one that was left alone."""

import os
import pathlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pandas
import psutil
import pytest

pytestmark = pytest.mark.slow
REPOSITORY = pathlib.Path(__file__).parent.parent
KILLS = 12
CONFIG = """
dataset: {name: digits}
models: {resnet8: {architecture: resnet8}}
training: {epochs: 30}
pruning: {scopes: [global], rates: [0.0, 0.5]}
quantization: {modes: [float32, static], calibration_images: 64}
evaluation: {latency_images: 20}
"""


def command(folder: pathlib.Path, *options: str) -> list[str]:
    snakefile = str(REPOSITORY / "workflow/Snakefile")
    place = ["--snakefile", snakefile, "--directory", str(folder), "--configfile", str(folder / "config.yaml")]
    return [sys.executable, "-m", "snakemake", "--cores", "2", *options, *place]


def run(folder: pathlib.Path, *options: str) -> None:
    """Run Snakemake to its end, which has to be a good one."""
    done = subprocess.run(command(folder, *options), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout[-5000:]


def jobs_of(driver: subprocess.Popen) -> list[psutil.Process]:
    """Return the scripts that a driver has running."""
    try:
        children = psutil.Process(driver.pid).children()
        return [child for child in children if any(".snakemake/scripts" in word for word in child.cmdline())]
    except psutil.Error:  # one has ended meanwhile
        return []


def kill_something(driver: subprocess.Popen, chance: random.Random, ready: Callable[[], bool]) -> str | None:
    """Kill a running job, the driver or both with SIGKILL, up to 2 s after a job runs and `ready` returns true.

    Returns what was killed, or None if no job was running any more.
    """
    while not (jobs_of(driver) and ready()) and driver.poll() is None:
        time.sleep(0.05)
    time.sleep(chance.uniform(0, 2))
    victim = chance.choice(["job", "driver", "both"])
    if not (jobs := jobs_of(driver)) or driver.poll() is not None:
        return None
    if victim != "job":
        driver.kill()
    if victim != "driver":
        os.kill(chance.choice(jobs).pid, signal.SIGKILL)
    return victim


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "config.yaml").write_text(CONFIG)
    run(folder, "all")
    return folder


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> tuple[pathlib.Path, list[str]]:
    """The same study after KILLS kills, and what was killed."""
    folder = tmp_path_factory.mktemp("killed")
    (folder / "config.yaml").write_text(CONFIG)
    chance, kills = random.Random(0), []
    state = folder / "results/models/resnet8/seed0/dense.training_state.pt"
    while len(kills) < KILLS:
        with open(folder / "driver.log", "a") as log:
            driver = subprocess.Popen(command(folder, "all"), stdout=log, stderr=subprocess.STDOUT)
            # The first kill meets a training that has something to lose.
            ready = state.exists if not kills else lambda: True
            victim = kill_something(driver, chance, ready)
            kills += filter(None, [victim])
            driver.wait()
        assert driver.returncode != 0, f"the study was finished after {len(kills)} kills"
        if victim in ("driver", "both"):
            run(folder, "--unlock")
    run(folder, "all")
    return folder, kills


def files(folder: pathlib.Path, *endings: str) -> dict[str, bytes]:
    """Return the files below results/, but for copies of the answer, which depends on times."""
    places = [folder / "results/data", folder / "results/models"]
    found = [path for place in places for path in place.rglob("*") if path.is_file() and path.suffix in endings]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_every_kind_of_kill_hit(killed):
    assert set(killed[1]) == {"job", "driver", "both"}
    assert len(killed[1]) == KILLS


def test_models_data_and_predictions_are_the_same_bytes(undisturbed, killed):
    first, second = (files(folder, ".onnx", ".safetensors", ".npy") for folder in (undisturbed, killed[0]))
    assert len(first) == 6 + 1 + 2 + 4 + 8  # arrays, graph, checkpoints, variants, predictions of two splits
    assert first == second


def test_the_summaries_differ_in_times_only(undisturbed, killed):
    tables = [pandas.read_csv(folder / "results/summary.csv") for folder in (undisturbed, killed[0])]
    tables = [
        table.loc[:, ~table.columns.str.contains("_ms|speedup|eager_to|machine_busy|time_share|time_by")]
        for table in tables
    ]
    assert {"accuracy", "accuracy_low", "model_size_bytes", "sparsity"} <= set(tables[0].columns)
    pandas.testing.assert_frame_equal(*tables)


def test_training_was_resumed(killed):
    assert "resumed after epoch" in (killed[0] / "results/logs/train/resnet8/seed0.log").read_text()


def test_nothing_is_left_of_killed_jobs(undisturbed, killed):
    names = [
        {str(path.relative_to(folder)) for path in (folder / "results").rglob("*")}
        for folder in (undisturbed, killed[0])
    ]
    assert names[0] == names[1]


def test_nothing_runs_again(killed):
    output = subprocess.run(command(killed[0], "all"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert "Nothing to be done" in output.stdout
