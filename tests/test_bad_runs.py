"""Every bad input ends in a message for people, and leaves no output."""

import os
import pathlib

import bad_runs
import pytest


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> pathlib.Path:
    return bad_runs.finished_study(tmp_path_factory.mktemp("finished"))


@pytest.mark.parametrize("name", bad_runs.INPUTS)
def test_a_bad_input_gets_a_message_without_a_traceback_and_leaves_no_output(name, finished, tmp_path):
    if name == "full disk" and os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    ended = bad_runs.outcome(name, finished, tmp_path / "study")
    assert ended.status == 1, ended.output
    assert ended.message, ended.output
    assert "Traceback" not in ended.output
    assert ended.made == []
    assert not (tmp_path / "study/executed").exists()
