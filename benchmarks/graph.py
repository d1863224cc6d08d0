"""Time and memory of a dry run, and of a run with nothing to do, for studies of up to 10,000 variants.

Each runs as a user would run it, in a process of its own. Prints a Markdown table; docs/scaling.md says what follows.
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
CONFIG = "pruning: {{rates: [{rates}]}}\nquantization: {{modes: [float32, static]}}\nseeds: [{seeds}]\n"


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


def write_study(folder: pathlib.Path, variants: int) -> list[str]:
    """Write the configuration of a study of so many variants; return the arguments that run it in its folder."""
    rates = ", ".join(str(rate / 100) for rate in range(RATES))
    seeds = ", ".join(map(str, range(variants // (MODES * SCOPES * RATES))))
    (folder / "config.yaml").write_text(CONFIG.format(rates=rates, seeds=seeds))
    return ["--cores", "2", "--snakefile", str(REPOSITORY / "workflow/Snakefile"), "--configfile", "config.yaml"]


def measure(folder: pathlib.Path, variants: int, kind: str, repeats: int, *arguments: str) -> int:
    """Print a row of the table, of the fastest of so many runs; return the number of jobs that were planned."""
    runs = [run(sys.executable, "-m", "snakemake", *arguments, folder=folder) for _ in range(repeats)]
    seconds, memory, text = min(runs)
    total = re.search(r"^total +(\d+)$", text, re.MULTILINE)
    jobs = int(total[1]) if total else 0
    print(f"| {variants:,} | {jobs:,} | {kind} | {seconds:.1f} | {memory / 1e6:.0f} |", flush=True)
    return jobs


def main() -> None:
    """Measure and print; see --help."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("variants", nargs="*", type=int, default=[100, 1000, 10_000], help="multiples of 100")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each, of which the fastest counts")
    options = parser.parse_args()
    print("| variants | jobs | run | s | MB |")
    print("|---:|---:|---|---:|---:|")
    for variants in options.variants:
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            study = write_study(folder, variants)
            measure(folder, variants, "dry run", options.repeats, *study, "--dry-run", "--quiet", "reason")
            run(sys.executable, str(REPOSITORY / "benchmarks/recorded.py"), *study, folder=folder)
            if measure(folder, variants, "nothing to do", options.repeats, *study):
                sys.exit("jobs ran although nothing changed")


if __name__ == "__main__":
    main()
