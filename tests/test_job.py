"""A script's run: what goes to the log, what to the terminal, and with which exit status."""

import subprocess

import pytest
from runners import python

from elagage.job import failures


def run(body: str, tmp_path) -> subprocess.CompletedProcess:
    """Run the body of a job in a process of its own; its log is logs/a.log below tmp_path."""
    script = f"""
import os
from elagage.errors import UserError
from elagage.job import job
with job(r"{tmp_path}/logs/a.log"):
    {body}
"""
    return python(script)


def test_output_goes_to_the_log_with_time_and_memory(tmp_path):
    done = run('print("from Python"); os.system("echo from a C library >&2")', tmp_path)
    log = (tmp_path / "logs/a.log").read_text()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert "from Python\n" in log
    assert "from a C library\n" in log
    assert "MiB of memory at its peak" in log


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('raise UserError("seeds: -1 is below 0")', "error: seeds: -1 is below 0\n"),
        ('open("/no/such/file")', "error: [Errno 2] No such file or directory: '/no/such/file'\n"),
    ],
)
def test_a_mistake_is_one_message_without_a_traceback(tmp_path, body, message):
    done = run(body, tmp_path)
    assert done.returncode == 1
    assert done.stderr == message
    assert "Traceback" not in done.stderr


def test_an_unexpected_error_names_the_log_which_has_the_traceback(tmp_path):
    done = run("1 / 0", tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "ZeroDivisionError" in done.stderr
    assert str(tmp_path / "logs/a.log") in done.stderr
    assert "Traceback" in (tmp_path / "logs/a.log").read_text()


def test_the_failures_of_a_run_are_each_message_once_with_its_logs(tmp_path):
    run('raise UserError("of a run before")', tmp_path)
    (tmp_path / "logs/a.log").rename(tmp_path / "logs/before.log")
    since = (tmp_path / "logs/before.log").stat().st_mtime + 0.001
    for name, body in (
        ("b", 'raise UserError("two\\nlines")'),
        ("c", 'raise UserError("two\\nlines")'),
        ("d", "1 / 0"),
    ):
        run(f'print("error: none yet"); {body}', tmp_path)
        (tmp_path / "logs/a.log").rename(tmp_path / f"logs/{name}.log")
    run('print("error: of another program, which the job survived")', tmp_path)
    (message, logs), (unexpected, _) = failures(tmp_path, since).items()
    assert (message, logs) == ("two\nlines", [f"{tmp_path}/logs/b.log", f"{tmp_path}/logs/c.log"])
    assert unexpected.startswith("unexpected ZeroDivisionError")
