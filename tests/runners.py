"""Runs of the workflow, as users start them, and of Python, in processes of their own."""

import os
import pathlib
import re
import subprocess
import sys

SCRIPTS = pathlib.Path(__file__).parents[1] / "scripts"


def python(code: str, folder: pathlib.Path = SCRIPTS, *options: str) -> subprocess.CompletedProcess:
    """Run the code in a folder, with the scripts and elagage on its path; return status, output and errors."""
    command = [sys.executable, *options, "-c", code]
    environment = os.environ | {"PYTHONPATH": str(SCRIPTS)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def run_snakemake(folder: pathlib.Path, *arguments: str) -> tuple[int, str]:
    """Run Snakemake in the folder of a study; return its exit status and what it printed."""
    cores = [] if "--profile" in arguments else ["--cores", "2"]
    command = [sys.executable, "-m", "snakemake", *cores, *arguments]
    run = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return run.returncode, run.stdout.decode(errors="replace")


def snakemake(folder: pathlib.Path, *arguments: str, check: bool = True) -> str:
    """Run Snakemake in the folder of a study and return what it printed."""
    status, output = run_snakemake(folder, *arguments)
    assert not check or status == 0, output
    return output


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
