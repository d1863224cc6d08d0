"""How many Slurm jobs a study submits, and how long they take, with jobs that do nothing but create their outputs.

Runs the profile slurm/ on a cluster of this machine's own, as root; see tests/slurm_cluster.py. Prints two lines: for
the whole study, and for one more rate.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "tests"))

import slurm_cluster  # noqa: E402

MODES, SCOPES = ["none", "dynamic", "static"], ["local", "global"]
STUB = """\
import pathlib

for path in snakemake.output:
    pathlib.Path(path).touch()
"""


def make_study(folder: pathlib.Path) -> None:
    """Copy the workflow, with scripts that do nothing."""
    for name in ("workflow", "scripts", "slurm", "envs"):
        shutil.copytree(REPOSITORY / name, folder / name)
    for script in (folder / "scripts").glob("*.py"):
        script.write_text(STUB)
    (folder / "config").mkdir()


def run(folder: pathlib.Path, rates: int, seeds: int, env: dict[str, str]) -> str:
    """Run the study; return the number of variants, of Slurm jobs by state, and the time."""
    (folder / "config/config.yaml").write_text(
        f"seeds: {list(range(seeds))}\n"
        f"pruning: {{scopes: [{', '.join(SCOPES)}], rates: {[rate / 100 for rate in range(rates)]}}}\n"
        f"quantization: {{modes: [{', '.join(MODES)}]}}\n"
    )
    before = slurm_jobs(env)
    start = time.monotonic()
    command = ["snakemake", "--profile", "slurm", "all", "--slurm-init-seconds-before-status-checks", "2"]
    done = subprocess.run(
        [*command, "--latency-wait", "10"], cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if done.returncode:
        sys.exit(done.stdout.decode()[-5000:])
    states = slurm_jobs(env)[len(before) :]
    counted = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states)))
    variants = len(MODES) * len(SCOPES) * rates * seeds
    return f"{variants} variants: {len(states)} Slurm jobs ({counted}) in {time.monotonic() - start:.0f} s"


def slurm_jobs(env: dict[str, str]) -> list[str]:
    """Return the state of every job that the cluster has had."""
    command = ["sacct", "--allocations", "--noheader", "--parsable2", "--format=State"]
    return subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()


def main() -> None:
    """Measure and print; see --help."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rates", type=int, default=17, help="rates, of which the first is 0")
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    if why := slurm_cluster.missing():
        parser.error(why)
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary, "study")
        make_study(folder)
        with slurm_cluster.cluster(pathlib.Path(temporary, "cluster")) as variables:
            env = os.environ | variables
            env |= {"PATH": f"{pathlib.Path(sys.executable).parent}:{variables['PATH']}"}
            print(run(folder, options.rates, options.seeds, env), flush=True)
            print("one rate more:", run(folder, options.rates + 1, options.seeds, env), flush=True)


if __name__ == "__main__":
    main()
