"""Time and memory of a dry run, and of a run with nothing to do, for studies of up to 10,000 variants.

Beside Elagage stands bare.smk, a Snakefile of the same jobs and files with nothing on it. Both run in turns, as a user
would run them: a process of its own for each. Prints a Markdown table.
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
MODES, SCOPES, RATES = 2, 2, 25
CONFIG = "pruning: {{rates: [{rates}]}}\nquantization: {{modes: [none, static]}}\nseeds: [{seeds}]\n"


def run(*command: str, folder: pathlib.Path) -> tuple[float, int, str]:
    """Run a command in a folder; return its time in s, its peak memory in bytes and what it printed."""
    with tempfile.TemporaryFile("w+") as output:
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read()
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed in {folder}:\n{text[-3000:]}")
    return seconds, usage.ru_maxrss * 1024, text


def job_table(text: str) -> dict[str, int]:
    """Return the number of jobs of each rule that a dry run printed."""
    table = text.partition("Job stats:")[2].partition("Reasons:")[0]
    return {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)}


def studies(folder: pathlib.Path, variants: int) -> dict[str, tuple[pathlib.Path, list[str]]]:
    """Return, for Elagage and the bare Snakefile, a new folder and the arguments that run such a study in it."""
    seeds = variants // (MODES * SCOPES * RATES)
    made = {}
    for name, snakefile in (("Elagage", "workflow/Snakefile"), ("bare", "benchmarks/bare.smk")):
        study = folder / f"{name}-{variants}"
        study.mkdir()
        arguments = ["--cores", "2", "--snakefile", str(REPOSITORY / snakefile)]
        if name == "Elagage":
            rates = ", ".join(str(rate / 100) for rate in range(RATES))
            (study / "config.yaml").write_text(CONFIG.format(rates=rates, seeds=", ".join(map(str, range(seeds)))))
        else:
            (study / "config.yaml").write_text(f"seeds: {seeds}\nrates: {RATES}\n")
            arguments += ["--rerun-triggers", "mtime", "params", "input", "software-env"]
        arguments += ["--configfile", "config.yaml"]
        made[name] = study, arguments
    return made


def compare(both: dict, variants: int, kind: str, repeats: int, *options: str) -> int:
    """Print a row of the table; return the number of jobs that were planned or run, the same for both."""
    measured = {name: [] for name in both}
    jobs = {}
    for name, (study, arguments) in list(both.items()) * repeats:
        seconds, memory, text = run(sys.executable, "-m", "snakemake", *arguments, *options, folder=study)
        measured[name].append((seconds, memory))
        jobs[name] = job_table(text)
    if jobs["Elagage"] != jobs["bare"]:
        sys.exit(f"the graphs differ: {jobs}")
    total = jobs["bare"].get("total", 0)
    (bare, bare_memory), (ours, our_memory) = (min(measured[name]) for name in ("bare", "Elagage"))
    print(
        f"| {variants:,} | {total:,} | {kind} | {bare:.1f} | {ours:.1f} | {ours / bare:.2f} | "
        f"{bare_memory / 1e6:.0f} | {our_memory / 1e6:.0f} | {our_memory / bare_memory:.2f} |",
        flush=True,
    )
    return total


def main() -> None:
    """Measure and print; see --help."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("variants", nargs="*", type=int, default=[100, 1000, 10_000], help="multiples of 100")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each, of which the fastest counts")
    options = parser.parse_args()
    print("| variants | jobs | run | bare s | Elagage s | ratio | bare MB | Elagage MB | ratio |")
    print("|" + "---:|" * 2 + "---|" + "---:|" * 6)
    with tempfile.TemporaryDirectory() as folder:
        for variants in options.variants:
            both = studies(pathlib.Path(folder), variants)
            compare(both, variants, "dry run", options.repeats, "--dry-run", "--quiet", "reason")
            for study, arguments in both.values():
                run(sys.executable, str(REPOSITORY / "benchmarks/recorded.py"), *arguments, folder=study)
            if compare(both, variants, "nothing to do", options.repeats):
                sys.exit("jobs ran although nothing changed")


if __name__ == "__main__":
    main()
