"""What the terminal shows of a study: a line for each job, the time that is left, and no headers."""

import contextlib
import logging
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest
from runners import planned
from snakemake_interface_logger_plugins.common import LogEvent

from elagage.terminal import KEPT, Narrator, Work

REPOSITORY = pathlib.Path(__file__).parent.parent
STUDY = "dataset: {name: digits}\ntraining: {epochs: 1000}\n"
TOOK = {"train": 40, "evaluate": 4}  # seconds


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def run(clock: Clock, work: Work, rule: str, workers: int = 1) -> None:
    """Let so many jobs of a rule run side by side."""
    for job in range(workers):
        work.start(job, rule)
    clock.now += TOOK[rule]
    for job in range(workers):
        work.finish(job)


@pytest.mark.parametrize("workers", [1, 4])
def test_jobs_take_as_long_as_those_of_their_rule_and_run_side_by_side(workers):
    clock = Clock()
    work = Work(clock)
    work.plan({"train": 8, "evaluate": 80, "total": 88})
    assert work.seconds_left() is None
    run(clock, work, "evaluate", workers)
    run(clock, work, "train", workers)
    left = (8 - workers) * TOOK["train"] + (80 - workers) * TOOK["evaluate"]
    assert work.seconds_left() == pytest.approx(left / workers)


def test_nothing_is_told_while_the_long_jobs_are_unknown():
    clock = Clock()
    work = Work(clock)
    work.plan({"train": 40, "evaluate": 80, "total": 120})
    run(clock, work, "evaluate")
    assert work.seconds_left() is None
    run(clock, work, "train")
    assert work.seconds_left() is not None


def test_the_last_jobs_take_as_long_as_any():
    clock = Clock()
    work = Work(clock)
    work.plan({"evaluate": 2, "plot": 1, "total": 3})
    run(clock, work, "evaluate")
    assert work.seconds_left() == pytest.approx(2 * TOOK["evaluate"])


def test_what_has_run_of_a_job_is_not_left():
    clock = Clock()
    work = Work(clock)
    work.plan({"evaluate": 2, "total": 2})
    run(clock, work, "evaluate")
    work.start(1, "evaluate")
    clock.now += 1
    assert work.seconds_left() == pytest.approx(TOOK["evaluate"] - 1)
    clock.now += 100
    assert work.seconds_left() == pytest.approx(0)


def shown(narrator: Narrator, message: str | None = None, **event) -> str | None:
    """Return what is shown of a message of Snakemake, None if it is nothing."""
    record = logging.makeLogRecord({"msg": message, "levelno": logging.INFO, **event})
    return narrator.format(record) if narrator.filter(record) else None


def test_a_run_is_told_in_a_line_per_job():
    narrator = Narrator(logging.Formatter(), Work())
    assert shown(narrator, event=LogEvent.RUN_INFO, stats={"train": 2, "total": 2}) == "2 jobs to run"
    assert shown(narrator, "Building DAG of jobs...") is None
    assert shown(narrator, "Provided cores: 2", event=LogEvent.RESOURCES_INFO) is None
    started = shown(narrator, event=LogEvent.JOB_INFO, jobid=1, rule_name="train", rule_msg="Train it")
    assert re.fullmatch(r"\d\d:\d\d \[0/2\] Train it", started)
    assert shown(narrator, event=LogEvent.JOB_FINISHED, job_id=1) is None
    assert shown(narrator, event=LogEvent.PROGRESS, done=1, total=2) is None
    assert "[1/2, about 10 s left] Train it" in shown(
        narrator, event=LogEvent.JOB_INFO, jobid=2, rule_name="train", rule_msg="Train it"
    )
    shown(narrator, event=LogEvent.JOB_FINISHED, job_id=2)
    assert "[2/2] done" in shown(narrator, event=LogEvent.PROGRESS, done=2, total=2)


def test_errors_and_all_else_have_snakemakes_words():
    narrator = Narrator(logging.Formatter(), Work())
    assert shown(narrator, "Nothing to be done") == "Nothing to be done"
    assert shown(narrator, "Error in rule train:", event=LogEvent.JOB_ERROR) == "Error in rule train:"


@pytest.mark.slow
def test_an_interrupted_study_says_that_the_same_command_goes_on(tmp_path):
    (tmp_path / "study.yaml").write_text(STUDY)
    words = ["all", "--snakefile", str(REPOSITORY / "workflow/Snakefile"), "--configfile", "study.yaml"]
    command = [sys.executable, "-m", "snakemake", "--cores", "1", *words]
    screen, training = tmp_path / "screen", tmp_path / "results/logs/train/resnet8/seed0.log"

    def heed_interrupts():
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # which a shell lets what it starts in the background ignore

    with screen.open("w") as file:
        process = subprocess.Popen(
            command, cwd=tmp_path, stderr=file, start_new_session=True, preexec_fn=heed_interrupts
        )
    try:
        while process.poll() is None and not (training.is_file() and "epoch" in training.read_text()):
            time.sleep(0.5)
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C in a terminal does
        process.wait(60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    *before, last = screen.read_text().splitlines()
    assert last == KEPT
    assert not any(re.search("error|exception|traceback", line, re.IGNORECASE) for line in before)
    assert "train" in planned(tmp_path, *words)  # the folder is not locked
