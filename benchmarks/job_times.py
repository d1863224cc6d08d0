"""Where the time of a study's jobs went, rule by rule: until a job's own code starts, and after.

For example `make study CONFIG=study/study.yaml CORES=2`, then `python benchmarks/job_times.py study`. Of each job the
last run, as Snakemake recorded it, whose work is what its log ends with; the rest is the start of Python, imports and
Snakemake. Jobs run side by side, so the sums are longer than the study took.
"""

import argparse
import json
import pathlib
import re

import pandas
from snakemake.persistence import RECORD_FORMAT_VERSION

TOOK = re.compile(r"^took ([0-9.]+) s and ", re.MULTILINE)


def jobs(study: pathlib.Path) -> pandas.DataFrame:
    """Return a row for each job: rule, seconds (from its start to its end), work (of them, by its own account)."""
    rows = {}
    for path in (study / ".snakemake/metadata").iterdir():
        record = json.loads(path.read_text())
        if record["record_format_version"] != RECORD_FORMAT_VERSION or not record["log"]:
            continue
        log = record["log"][0]
        took = TOOK.findall((study / log).read_text())
        if took:
            rows[log] = (record["rule"], record["endtime"] - record["starttime"], float(took[-1]))
    return pandas.DataFrame(rows.values(), columns=["rule", "seconds", "work"])


def table(found: pandas.DataFrame) -> pandas.DataFrame:
    """Return the sums over the jobs of each rule, the longest first, and of all rules."""
    sums = found.groupby("rule").agg(jobs=("work", "size"), seconds=("seconds", "sum"), work=("work", "sum"))
    sums = sums.sort_values("seconds", ascending=False)
    sums.loc["all"] = sums.sum()
    sums.insert(2, "start", sums["seconds"] - sums["work"])
    sums["share"] = 100 * sums["seconds"] / sums.loc["all", "seconds"]
    return sums.round(1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=pathlib.Path, help="folder of a study that has run")
    print(table(jobs(parser.parse_args().study)).to_markdown())
