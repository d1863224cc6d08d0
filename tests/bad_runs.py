"""Bad inputs and what Elagage says to each: every one a real run of Snakemake in a copy of a small study.

One for each way in which a message reaches the user; what else is wrong with a configuration, an image, weights, a
network or a damaged file is tested where it is read. `python tests/bad_runs.py` prints the table `input | message`;
tests/test_bad_runs.py runs the same.
"""

import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from typing import NamedTuple

import numpy
import torch
from runners import run_snakemake, snakemake

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
CONFIG = """
dataset: {name: digits}
models: {m: {architecture: resnet8}}
training: {epochs: 1}
pruning: {scopes: [global], rates: [0.0, 0.5]}
quantization: {modes: [float32]}
evaluation: {latency_images: 20}
"""
PLACE = "--snakefile", str(REPOSITORY / "workflow/Snakefile")
NO_INTERNET = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")  # environment variables
FOLDER = "{name: image_folder, path: pictures, image_size: 8}"
MESSAGE = re.compile(r"^(?:error: |configuration: |\S+\.yaml: |there is |No rule to produce).*", re.MULTILINE)
Change = Callable[[pathlib.Path], list[str] | None]


def configured(old: str, new: str) -> Change:
    """Return a change of the study's configuration."""

    def change(study: pathlib.Path) -> None:
        file = study / "config/config.yaml"
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))

    return change


def written(name: str, content: str | bytes) -> Change:
    """Return a change that writes a file of the study."""
    content = content.encode() if isinstance(content, str) else content
    return lambda study: (study / name).write_bytes(content) and None


def cut(name: str) -> Change:
    """Return a change that leaves the first half of a file."""
    return lambda study: os.truncate(study / name, (study / name).stat().st_size // 2)


def option(*words: str) -> Change:
    """Return a change of the command line."""
    return lambda study: list(words)


def both(*changes: Change) -> Change:
    """Return a change that makes several, the last of which may give words of the command line."""
    return lambda study: [change(study) for change in changes][-1]


def pictures(change: Callable[[pathlib.Path], object]) -> Change:
    """Return a change to an image folder, the example's, in which something is wrong."""

    def make(study: pathlib.Path) -> None:
        shutil.copytree(REPOSITORY / "examples/own_model/images", study / "pictures")
        change(study / "pictures")

    return both(make, configured("{name: digits}", FOLDER))


class Trap:
    """An object that creates a file when it is unpickled."""

    def __reduce__(self):
        return open, ("executed", "w")


def no_results_folder(study: pathlib.Path) -> None:
    """Put a file in the place of results/."""
    shutil.rmtree(study / "results")
    (study / "results").touch()


def full_disk(study: pathlib.Path) -> list[str]:
    """Put results/models on a disk that soon is full."""
    disk = study / "results/models"
    shutil.rmtree(disk)
    (study / "results/summary.csv").unlink()
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], check=True)
    return []


class BadInput(NamedTuple):
    """A change that makes a study wrong, and how the message begins: with `error: ` if it is that of a job."""

    change: Change
    message: str


DENSE = "results/models/m/seed0/dense"
BEGUN, FINISHED = f"{DENSE}.safetensors", "all"
# Of a study that has prepared its data and trained its network.
OF_A_BEGUN_STUDY = {
    "unknown key": BadInput(configured("epochs: 1", "epoch: 1"), "configuration: training.epoch: unknown key"),
    "weights file that is not there": BadInput(
        configured("resnet8", "resnet8, weights: no.pt"), "configuration: models.m.weights: there is no file 'no.pt'"
    ),
    "text named .png": BadInput(
        pictures(lambda folder: (folder / "test/ring/3.png").write_text("cat")),
        "error: pictures/test/ring/3.png: not a readable image",
    ),
    "weights that are a program": BadInput(
        both(lambda study: torch.save(Trap(), study / "w.pt"), configured("resnet8", "resnet8, weights: w.pt")),
        "error: weights 'w.pt'",
    ),
    "build that raises": BadInput(
        both(
            written("own.py", "def build(num_classes, in_channels):\n    raise ValueError('the reason')\n"),
            configured("resnet8", '"own.py:build"'),
        ),
        "error: architecture 'own.py:build'",
    ),
    "dataset.json cut in half": BadInput(cut("results/data/dataset.json"), "error: results/data/dataset.json: damaged"),
}
# Of a study that has run to its end.
OF_A_FINISHED_STUDY = {
    "no configuration": BadInput(
        lambda study: (study / "config/config.yaml").unlink(), "there is no config/config.yaml in"
    ),
    "the same key twice in a file that is named": BadInput(
        both(written("study.yaml", "seeds: [0]\nseeds: [1]\n"), option("--configfile", "study.yaml")),
        "study.yaml: line 2: key 'seeds' stands twice",
    ),
    "mistakes on the command line": BadInput(
        option("--config", "seeds=[-1]", "trainings=3"), "configuration: seeds[0]: -1 is less than the minimum of 0"
    ),
    "target of a rate that is not in the study": BadInput(
        option("results/models/m/seed0/global/0.7/none.safetensors"), "No rule to produce"
    ),
    "target of a rate in other digits": BadInput(
        option("results/models/m/seed0/global/0.50/none.safetensors"), "No rule to produce"
    ),
    "results that is a file": BadInput(no_results_folder, "there is a file 'results' in"),
    "link to no image": BadInput(
        pictures(lambda folder: (folder / "test/ring/x.png").symlink_to("nowhere")), "pictures/test/ring/x.png"
    ),
    "data set that cannot be downloaded": BadInput(
        configured("digits", "cifar10"),
        "error: dataset.name: CIFAR10 could not be downloaded to dataset.path 'data'",
    ),
    "images of another type": BadInput(
        both(
            lambda study: numpy.save(study / "results/data/train_images.npy", numpy.zeros((9, 9))),
            configured("epochs: 1", "epochs: 1, learning_rate: 0.2"),
        ),
        "error: results/data/train_images.npy: damaged",
    ),
    "checkpoint cut in half": BadInput(cut(f"{DENSE}.safetensors"), f"error: {DENSE}.safetensors: damaged"),
    "checkpoint that is a program": BadInput(
        lambda study: torch.save(Trap(), study / f"{DENSE}.safetensors"), f"error: {DENSE}.safetensors: damaged"
    ),
    "exported graph cut in half": BadInput(
        cut("results/models/m/graph.onnx"), "error: results/models/m/graph.onnx: damaged"
    ),
    "ONNX file cut in half": BadInput(cut(f"{DENSE}-float32.onnx"), f"error: {DENSE}-float32.onnx: damaged"),
    "packed file cut in half": BadInput(
        cut(f"{DENSE}-float32.onnx.packed"), f"error: {DENSE}-float32.onnx.packed: damaged"
    ),
    "accuracy.json cut in half": BadInput(
        cut(f"{DENSE}-float32.accuracy.json"), f"error: {DENSE}-float32.accuracy.json: damaged"
    ),
    "empty summary.csv": BadInput(written("results/summary.csv", ""), "error: results/summary.csv: damaged"),
    "history.csv that is binary": BadInput(
        written("results/models/m/seed0/history.csv", bytes(range(256))),
        "error: results/models/m/seed0/history.csv: damaged",
    ),
    "full disk": BadInput(full_disk, "error: results/models/m/"),
}


class Outcome(NamedTuple):
    """What a run with a bad input did."""

    status: int
    output: str
    message: str  # the lines that are for the user, joined
    made: list[str]  # files below results/ that are new or changed, without logs


def new_study(folder: pathlib.Path, target: str) -> pathlib.Path:
    """Return the folder with a small study in it that has made the target."""
    (folder / "config").mkdir(parents=True)
    (folder / "config/config.yaml").write_text(CONFIG)
    snakemake(folder, target, *PLACE)
    return folder


def results(folder: pathlib.Path) -> dict[str, str]:
    """Return the checksum of every file below results/ but logs, by name."""
    files = [path for path in (folder / "results").rglob("*") if path.is_file() and "logs" not in path.parts]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def outcome(change: Change, study: pathlib.Path, target: str, folder: pathlib.Path) -> Outcome:
    """Run a copy of the study, in `folder`, with a bad input, and ask for the target unless the change names one."""
    shutil.copytree(study, folder)
    words = change(folder) or []
    before = results(folder)
    targets = [] if any(word.startswith("results/") for word in words) else [target]
    try:
        status, output = run_snakemake(folder, *targets, *PLACE, *words)
        made = [path for path, checksum in results(folder).items() if before.get(path) != checksum]
    finally:
        if os.path.ismount(folder / "results/models"):
            subprocess.run(["umount", "--lazy", folder / "results/models"], check=True)
    lines = MESSAGE.findall(output)
    return Outcome(status, output, " ".join(dict.fromkeys(lines)), made)


def main() -> None:
    """Print the table."""
    os.environ.update(NO_INTERNET)
    print("| input | message | traceback | made |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for kind, target in ((OF_A_BEGUN_STUDY, BEGUN), (OF_A_FINISHED_STUDY, FINISHED)):
            study = new_study(pathlib.Path(folder, target.replace("/", "-")), target)
            for name, bad in kind.items():
                ended = outcome(bad.change, study, target, pathlib.Path(folder, name.replace("/", "-")))
                text = ended.message.replace("|", "\\|").replace(folder, "...")
                text = text if len(text) < 300 else text[:300] + " ..."
                print(
                    f"| {name} | {text} | {'yes' if 'Traceback' in ended.output else 'no'} | {', '.join(ended.made)} |"
                )


if __name__ == "__main__":
    main()
