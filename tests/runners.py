"""Runs of the workflow, as users start them."""

import pathlib
import re
import subprocess
import sys


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
