"""Elagage against the notebook that people write by hand, on one trained network, in turns.

For example `make study CONFIG=examples/cifar10/study.yaml`, then `python benchmarks/notebook.py examples/cifar10`. Of
the study's first model, both prune the dense network in each scope of single weights at each rate, without recovery, in
float32, store it, measure its accuracy on all test images and time single images. The notebook does so in one process
with torch.nn.utils.prune and eager PyTorch on all cores. Elagage's jobs do on all cores; images are decoded, weights
imported and the network is checked before. A notebook has no validation images, so "the same" has hardly any; "all"
has the study's, and what else a study ends with. Prints a Markdown table of the seconds of a variant. Let nothing run
beside it.
"""

import argparse
import copy
import functools
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import torch
import yaml
from torch.nn.utils import prune

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "scripts"))

from elagage.data import Dataset, Split  # noqa: E402
from elagage.pytorch.checkpoints import load_network  # noqa: E402
from elagage.pytorch.models import Normalize  # noqa: E402

SCOPES = ("local", "global")
RATES = (0.3, 0.5, 0.7, 0.9)
BATCH = 128  # images
TIMED = 1000  # images
TURNS = 3
HARDLY_ANY = 0.005  # of the training images, for validation


def notebook(checkpoint: pathlib.Path, architecture: str, data: pathlib.Path, folder: pathlib.Path) -> None:
    """Prune, store, test and time a network as a notebook does."""
    dataset = Dataset.read(data / "dataset.json")
    test = Split.read(data / "test_images.npy", data / "test_labels.npy")
    dense, _ = load_network(checkpoint, architecture, dataset)
    images = Normalize(dataset)(torch.from_numpy(test.images))
    labels = torch.from_numpy(test.labels)
    rows = []
    for scope in SCOPES:
        for rate in RATES:
            network = copy.deepcopy(dense).eval()
            layers = [
                (module, "weight")
                for module in network.modules()
                if isinstance(module, torch.nn.Conv2d | torch.nn.Linear)
            ]
            if scope == "global":
                prune.global_unstructured(layers, prune.L1Unstructured, amount=rate)
            else:
                for module, name in layers:
                    prune.l1_unstructured(module, name, rate)
            for module, name in layers:
                prune.remove(module, name)
            torch.save(network.state_dict(), folder / f"{scope}-{rate}.pt")
            with torch.no_grad():
                correct = sum(
                    (network(images[start : start + BATCH]).argmax(1) == labels[start : start + BATCH]).sum().item()
                    for start in range(0, len(labels), BATCH)
                )
                begin = time.perf_counter()
                for image in images[:TIMED]:
                    network(image[None])
                seconds = (time.perf_counter() - begin) / TIMED
            rows.append((scope, rate, correct / len(labels), 1000 * seconds))
    (folder / "rows.json").write_text(json.dumps(rows))


def prepare(
    study: pathlib.Path, config: dict, weights: pathlib.Path, folder: pathlib.Path, dataset: dict
) -> tuple[pathlib.Path, list[str]]:
    """Write a study of the given weights to the folder, up to the check; return the folder and Snakemake's command.

    dataset: keys beside those of the configuration.
    """
    name = next(iter(config["models"]))
    dataset = config["dataset"] | dataset
    if "path" in dataset:
        dataset = dataset | {"path": str((study / dataset["path"]).resolve())}
    model = config["models"][name] | {"weights": str(weights.resolve())}
    asked = {
        "dataset": dataset,
        "models": {name: model},
        "pruning": {"scopes": list(SCOPES), "rates": list(RATES), "recovery": ["none"]},
        "quantization": {"modes": ["float32"]},
        "sensitivity": {"images": 0},
        "evaluation": {"latency_images": TIMED},
    }
    folder.mkdir()
    (folder / "study.yaml").write_text(yaml.safe_dump(asked))
    snakemake = pathlib.Path(sys.executable).with_name("snakemake")
    command = [str(snakemake), "--cores", str(os.cpu_count()), "--snakefile", str(REPOSITORY / "workflow/Snakefile")]
    # The option that takes several values stands before one that takes one, so that targets may follow.
    command += ["--configfile", str(folder / "study.yaml")]
    finish([*command, "--directory", str(folder), "check"])
    return folder, command


def run_copy(base: pathlib.Path, command: list[str], targets: list[str]) -> None:
    """Let Snakemake make the targets in a copy of the folder."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = shutil.copytree(base, temporary, dirs_exist_ok=True)
        finish([*command, "--directory", str(folder), *targets])


def finish(command: list[str]) -> None:
    """Run a command, and show what it said if it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        sys.exit(done.stdout)


def measured_files(name: str) -> list[str]:
    """Return what Elagage writes where the notebook has its rows: accuracy and times of each pruned network."""
    stem = "results/models/{}/seed0/{}/{}/none-float32.{}.json"
    return [
        stem.format(name, scope, rate, kind) for scope in SCOPES for rate in RATES for kind in ("accuracy", "latency")
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=pathlib.Path, help="folder of a finished study with its study.yaml")
    study = parser.parse_args().study
    config = yaml.safe_load((study / "study.yaml").read_text())
    name = next(iter(config["models"]))
    weights = next((study / "results/models" / name).glob("seed*/dense.safetensors"))
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        few = prepare(study, config, weights, pathlib.Path(temporary, "few"), {"validation_fraction": HARDLY_ANY})
        full = prepare(study, config, weights, pathlib.Path(temporary, "full"), {})
        architecture, data = config["models"][name]["architecture"], few[0] / "results/data"
        work = {
            "notebook": functools.partial(notebook, weights, architecture, data, pathlib.Path(temporary)),
            "Elagage, the same": functools.partial(run_copy, *few, measured_files(name)),
            "Elagage, all: validation images, sizes, answer, page": functools.partial(run_copy, *full, ["all"]),
        }
        for _ in range(TURNS):
            for what, do in work.items():
                start = time.perf_counter()
                do()
                seconds.setdefault(what, []).append((time.perf_counter() - start) / (len(SCOPES) * len(RATES)))
    print("| seconds per variant | median | lowest | highest |\n|---|---|---|---|")
    for what, took in seconds.items():
        print(f"| {what} | {statistics.median(took):.2f} | {min(took):.2f} | {max(took):.2f} |")


if __name__ == "__main__":
    main()
