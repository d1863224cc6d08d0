"""Bad inputs and what Elagage says to each: every one a real run of Snakemake in a copy of a small, finished study.

`python tests/bad_runs.py` prints the table `input | message`; tests/test_bad_runs.py runs the same.
"""

import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import NamedTuple

import numpy
import torch
from PIL import Image

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "scripts"))
CONFIG = """
dataset: {name: digits}
models: {m: {architecture: resnet8}}
training: {epochs: 1}
pruning: {scopes: [global], rates: [0.0, 0.5]}
quantization: {modes: [none]}
evaluation: {latency_images: 20}
"""
FOLDER = "{name: image_folder, path: pictures, image_size: 8}"
MODEL = """
from torch import nn
class Net(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.linear = nn.Linear(64 * in_channels, num_classes)
    def forward(self, x):
        return FORWARD
def build(num_classes, in_channels):
    return Net(num_classes, in_channels)
"""
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


def own_model(forward: str, text: str = MODEL) -> Change:
    """Return a change to a user's own model with that forward pass."""
    architecture = configured("architecture: resnet8", 'architecture: "my_model.py:build"')
    return both(written("my_model.py", text.replace("FORWARD", forward)), architecture)


def weights(name: str, make: Callable[[pathlib.Path], object]) -> Change:
    """Return a change to weights of the user's, in a file that `make` writes."""
    change = configured("architecture: resnet8", f"architecture: resnet8, weights: {name}")
    return both(lambda study: make(study / name), change)


def pictures(change: Callable[[pathlib.Path], object]) -> Change:
    """Return a change to an image folder of two classes, in which something is wrong."""

    def make(study: pathlib.Path) -> None:
        for split, name, shade in ((s, n, i) for s in ("train", "test") for n in ("cat", "dog") for i in range(20)):
            path = study / "pictures" / split / name / f"{shade}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), shade + 100 * (name == "dog")).save(path)
        change(study / "pictures")

    return both(make, configured("{name: digits}", FOLDER))


class Trap:
    """An object that creates a file when it is unpickled."""

    def __reduce__(self):
        return open, ("executed", "w")


def other_weights(change: Callable) -> Callable[[pathlib.Path], None]:
    """Return a function that writes the study's own weights, changed."""

    def make(path: pathlib.Path) -> None:
        from safetensors.torch import load_file

        state = load_file(path.parent / "results/models/m/seed0/dense.safetensors")
        torch.save({name: change(tensor) for name, tensor in state.items()}, path)

    return make


def lacking_a_tensor(study: pathlib.Path) -> None:
    """Take the first tensor out of the dense checkpoint."""
    from elagage.pytorch.checkpoints import load_checkpoint, save_checkpoint

    path = study / "results/models/m/seed0/dense.safetensors"
    state, provenance = load_checkpoint(path)
    save_checkpoint(path, dict(list(state.items())[1:]), provenance)


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


M = "results/models/m"
INPUTS: dict[str, Change] = {
    "unknown key": configured("epochs: 1", "epoch: 1"),
    "unknown top-level key": configured("training:", "trainings:"),
    "text for a number": configured("epochs: 1", "epochs: many"),
    "number out of range": configured("epochs: 1", "epochs: 0"),
    "rate above 1": configured("0.5]", "1.5]"),
    "unknown mode": configured("[none]}\nev", "[int4]}\nev"),
    "unknown scope": configured("scopes: [global]", "scopes: [layer]"),
    "unknown recovery": configured("0.5]", "0.5], recovery: [retrain]"),
    "rewinding further than training went": configured("0.5]", "0.5], recovery: [rewind]"),
    "more batch norm images than there are": configured(
        "0.5]}", "0.5], recovery: [batchnorm]}\nretraining: {batchnorm_images: 9999}"
    ),
    "unknown architecture": configured("resnet8", "resnet9"),
    "model name that leaves the study": configured("{m:", '{"../m":'),
    "architecture file that is not there": configured("resnet8", '"no.py:build"'),
    "weights file that is not there": configured("resnet8", "resnet8, weights: no.pt"),
    "weights inside results of the same model": configured("resnet8", f"resnet8, weights: {M}/seed0/dense.safetensors"),
    "more calibration images than there are": configured("[none]}\nev", "[static], calibration_images: 9999}\nev"),
    "more timing images than there are": configured("latency_images: 20", "latency_images: 2000"),
    "more threads than the machine has": configured("latency_images: 20", "latency_images: 20, threads: 512"),
    "the same key twice": written("config/config.yaml", CONFIG + "training: {}\n"),
    "configuration that is no YAML": written("config/config.yaml", "models: {m: [\n"),
    "configuration that is a list": written("config/config.yaml", "- models\n"),
    "configuration in Latin-1": written("config/config.yaml", "# Elagu\xe9\n".encode("latin-1")),
    "no configuration": lambda study: (study / "config/config.yaml").unlink(),
    "mistake on the command line": option("--config", "seeds=[-1]"),
    "target of a rate that is not in the study": option(f"{M}/seed0/global/0.7/none.safetensors"),
    "image folder that is not there": configured("{name: digits}", FOLDER),
    "image folder without image_size": both(pictures(lambda folder: None), configured(", image_size: 8", "")),
    "class in one split only": pictures(lambda folder: (folder / "train/cow").mkdir()),
    "class without an image": pictures(lambda folder: [path.unlink() for path in (folder / "test/cat").iterdir()]),
    "link to no image": pictures(lambda folder: (folder / "test/cat/x.png").symlink_to("nowhere")),
    "text named .png": pictures(lambda folder: (folder / "test/cat/3.png").write_text("cat")),
    "truncated image": pictures(lambda folder: os.truncate(folder / "test/cat/3.png", 40)),
    "image of 16 bits": pictures(
        lambda folder: Image.fromarray(numpy.zeros((8, 8), numpy.uint16)).save(folder / "test/cat/3.png")
    ),
    "model file with a syntax error": own_model("", "def build(:\n"),
    "model file without the function": own_model("", "def other(): pass\n"),
    "build that raises": own_model("", "def build(num_classes, in_channels):\n    raise ValueError('no luck')\n"),
    "build that returns no module": own_model("", "def build(num_classes, in_channels):\n    return 3\n"),
    "forward that raises": own_model("self.linear(x)"),
    "forward that returns one number an image": own_model("self.linear(x.flatten(1)).sum(1)"),
    "loss that becomes infinite": configured("epochs: 1", "epochs: 3, learning_rate: 1.0e+30"),
    "weights that are a program": weights("w.pt", lambda path: torch.save(Trap(), path)),
    "weights that are text": weights("w.pt", lambda path: path.write_text("weights")),
    "weights that are half a file": weights("w.safetensors", lambda path: path.write_bytes(b"\x40" + bytes(20))),
    "weights of another network": weights("w.pt", lambda path: torch.save({"weight": torch.zeros(3)}, path)),
    "weights that are not finite": weights("w.pt", other_weights(lambda tensor: tensor * float("nan"))),
    "dataset.json cut in half": cut("results/data/dataset.json"),
    "dataset.json of another program": written("results/data/dataset.json", '{"name": "digits"}'),
    "checkpoint cut in half": cut(f"{M}/seed0/dense.safetensors"),
    "checkpoint that is a pickle": lambda study: torch.save(Trap(), study / f"{M}/seed0/dense.safetensors"),
    "empty checkpoint": written(f"{M}/seed0/dense.safetensors", b""),
    "checkpoint without a tensor": lacking_a_tensor,
    "images of another type": both(
        lambda study: numpy.save(study / "results/data/train_images.npy", numpy.zeros((9, 9))),
        configured("epochs: 1", "epochs: 2"),
    ),
    "fewer labels than images": both(
        lambda study: numpy.save(study / "results/data/train_labels.npy", numpy.arange(9)),
        configured("epochs: 1", "epochs: 2"),
    ),
    "pruned checkpoint cut in half": both(
        cut(f"{M}/seed0/global/0.5/none.safetensors"), configured("0.5]", "0.5], recovery: [finetune]")
    ),
    "exported graph cut in half": cut(f"{M}/graph.onnx"),
    "ONNX file cut in half": cut(f"{M}/seed0/global/0.5/none-none.onnx"),
    "ONNX file that is text": written(f"{M}/seed0/global/0.5/none-none.onnx", "onnx"),
    "accuracy.json cut in half": cut(f"{M}/seed0/dense-none.accuracy.json"),
    "size.json of another program": written(f"{M}/seed0/dense-none.size.json", "[]"),
    "empty latency.json": written(f"{M}/seed0/dense-none.latency.json", ""),
    "eager.json without times": written(f"{M}/seed0/dense.eager.json", "{}"),
    "empty summary.csv": written("results/summary.csv", ""),
    "history.csv that is binary": written(f"{M}/seed0/history.csv", bytes(range(256))),
    "results that is a file": no_results_folder,
    "full disk": full_disk,
}


class Outcome(NamedTuple):
    """What a run with a bad input did."""

    status: int
    output: str
    message: str  # the lines that are for the user, joined
    made: list[str]  # files below results/ that are new or changed, without logs


def finished_study(folder: pathlib.Path) -> pathlib.Path:
    """Return the folder with a small study in it that has run to its end."""
    (folder / "config").mkdir(parents=True)
    (folder / "config/config.yaml").write_text(CONFIG)
    done = snakemake(folder, "all")
    assert done.returncode == 0, done.stdout
    return folder


def snakemake(folder: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run Snakemake in the folder."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", REPOSITORY / "workflow/Snakefile", "--cores", "2"]
    return subprocess.run(
        [*command, *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def results(folder: pathlib.Path) -> dict[str, str]:
    """Return the checksum of every file below results/ but logs, by name."""
    files = [path for path in (folder / "results").rglob("*") if path.is_file() and "logs" not in path.parts]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def outcome(name: str, finished: pathlib.Path, folder: pathlib.Path) -> Outcome:
    """Run a copy of the finished study, in `folder`, with a bad input."""
    shutil.copytree(finished, folder)
    words = INPUTS[name](folder) or []
    before = results(folder)
    targets = [] if any(not word.startswith("-") and "/" in word for word in words) else ["all"]
    try:
        done = snakemake(folder, *targets, *words)
        made = [path for path, checksum in results(folder).items() if before.get(path) != checksum]
    finally:
        if os.path.ismount(folder / "results/models"):
            subprocess.run(["umount", "--lazy", folder / "results/models"], check=True)
    lines = MESSAGE.findall(done.stdout)
    return Outcome(done.returncode, done.stdout, " ".join(dict.fromkeys(lines)), made)


def main() -> None:
    """Print the table."""
    print("| input | message | traceback | made |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        finished = finished_study(pathlib.Path(folder, "finished"))
        for number, name in enumerate(INPUTS):
            ended = outcome(name, finished, pathlib.Path(folder, str(number)))
            text = ended.message.replace("|", "\\|").replace(folder, "...")
            text = text if len(text) < 300 else text[:300] + " ..."
            print(f"| {name} | {text} | {'yes' if 'Traceback' in ended.output else 'no'} | {', '.join(ended.made)} |")


if __name__ == "__main__":
    main()
