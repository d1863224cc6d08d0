"""Every bad input ends in a message for people, and leaves no output."""

import os
import pathlib
import re

import bad_runs
import pytest
from runners import run_snakemake


@pytest.fixture(autouse=True)
def no_internet(monkeypatch) -> None:
    for name, value in bad_runs.NO_INTERNET.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> pathlib.Path:
    return bad_runs.new_study(tmp_path_factory.mktemp("begun"), bad_runs.BEGUN)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> pathlib.Path:
    return bad_runs.new_study(tmp_path_factory.mktemp("finished"), bad_runs.FINISHED)


def check(bad: bad_runs.BadInput, study: pathlib.Path, target: str, folder: pathlib.Path) -> None:
    """Assert that a copy of the study in the folder ends with the message, and makes and executes nothing.

    What is wrong before any job is told before any job starts.
    """
    ended = bad_runs.outcome(bad.change, study, target, folder)
    assert ended.status == 1, ended.output
    assert bad.message in ended.message, ended.output
    assert "Traceback" not in ended.output
    assert 'File "' not in ended.output
    assert bool(re.search(r"^\d+ jobs? to run$", ended.output, re.MULTILINE)) == bad.message.startswith("error: ")
    assert ended.made == []
    if bad.message.startswith("error: "):
        last = ended.output.strip().splitlines()[-2:]
        assert last[0].startswith(bad.message)
        assert last[1].startswith("(log: results/logs/")
    assert not (folder / "executed").exists()


@pytest.mark.parametrize("bad", bad_runs.OF_A_BEGUN_STUDY.values(), ids=bad_runs.OF_A_BEGUN_STUDY)
def test_a_bad_input_gets_a_message_without_a_traceback_and_leaves_no_output(bad, begun, tmp_path):
    check(bad, begun, bad_runs.BEGUN, tmp_path / "study")


@pytest.mark.slow
@pytest.mark.parametrize("bad", bad_runs.OF_A_FINISHED_STUDY.values(), ids=bad_runs.OF_A_FINISHED_STUDY)
def test_a_bad_input_to_a_finished_study_gets_a_message_and_leaves_no_output(bad, finished, tmp_path):
    if bad.change is bad_runs.full_disk and os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    check(bad, finished, bad_runs.FINISHED, tmp_path / "study")


@pytest.mark.slow
def test_a_named_configuration_that_does_not_exist_fails(tmp_path):
    """Snakemake reads named files before it reads the workflow, which cannot shorten the traceback."""
    status, output = run_snakemake(tmp_path, *bad_runs.PLACE, "--configfile", "absent.yaml")
    assert status == 1
    assert "absent.yaml" in output
