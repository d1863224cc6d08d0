"""What becomes of networks that people use: trained, exported, pruned and quantized, each combination right or refused.

python benchmarks/zoo.py RESULTS measures one network after the other, each in a process of its own that may take so
much time and memory, and prints a Markdown table. A network whose JSON file lies in the folder RESULTS is not measured
again. timm has to be installed for most. The networks are barely trained, on 32 images of noise, so differences between
files tell something, accuracies do not.
"""

import argparse
import functools
import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable

import numpy
import onnx
import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "scripts"))

from zoo_networks import IMAGE_SIZES, NETWORKS

from check_model import Trial
from elagage.data import Dataset, PreparedData, Split
from elagage.errors import RefusedError, UserError
from elagage.files import refusal, write_json
from elagage.onnx.contents import count_contents
from elagage.onnx.deployed import description
from elagage.onnx.macs import count_multiply_accumulates
from elagage.onnx.runtime import load
from elagage.pytorch.checkpoints import load_checkpoint, load_network
from elagage.pytorch.device import compute_reproducibly
from elagage.pytorch.models import ModelSpec, Normalize
from elagage.schedules import TrainingSettings
from elagage.timing import time_in_turns
from quantize_export import quantize_export

CLASSES = [str(number) for number in range(10)]
IMAGES = 32  # for training, and for everything else
SETTINGS = TrainingSettings(
    epochs=4, batch_size=16, learning_rate=0.001, momentum=0.9, weight_decay=0.0, warmup_epochs=0, flip=None
)
ZOO = pathlib.Path(__file__).with_name("zoo_networks.py")
MODES = ("float32", "static", "qat")
TIMED_IMAGES = 20
RATE = 0.5


def noise(size: int) -> PreparedData:
    """Return images of noise whose brightness depends on the class, 3 channels of `size` pixels per side."""
    generator = numpy.random.default_rng(0)
    labels = numpy.arange(IMAGES) % len(CLASSES)
    pixels = generator.normal(20 * labels[:, None, None, None] + 40, 40, (IMAGES, 3, size, size))
    split = Split(pixels.clip(0, 255).astype(numpy.uint8), labels)
    dataset = Dataset("noise", CLASSES, 3, size, [0.5] * 3, [0.25] * 3, False, {"train": IMAGES}, {})
    return PreparedData(dataset, split, split)


def outcome(function: Callable[[], str]) -> str:
    """Return what the function returns or, where it raises, why."""
    try:
        return function()
    except RefusedError as error:
        return f"refused: {error}"
    except UserError as error:
        return f"stopped: {error}"
    except Exception as error:
        traceback.print_exc()
        return f"FAILED: {type(error).__name__}: {error}"


def logits_of(file: str, images: numpy.ndarray) -> numpy.ndarray:
    """Return the logits of an ONNX file; RefusedError with its reason if it was refused."""
    if reason := refusal(file):
        raise RefusedError(reason)
    return load(file, 1)(images)


def error_of(logits: numpy.ndarray, expected: numpy.ndarray) -> str:
    """Return the relative difference."""
    return f"{numpy.linalg.norm(logits - expected) / numpy.linalg.norm(expected):.1g}"


class Network:
    """One network of the zoo: trained, exported, and quantized without pruning."""

    def __init__(self, architecture: str, size: int, folder: str, modes: list[str]):
        self.data = noise(size)
        self.images = self.data.train.images
        self.trial = Trial(self.data, ModelSpec("zoo", architecture, 0), SETTINGS, pathlib.Path(folder))
        self.dense = self.trial.dense()
        graph = f"{folder}/graph.onnx"
        quantize_export(self.data.dataset, architecture, None, graph)
        self.graph = graph
        self.modes = [mode for mode in modes if mode != "qat"]
        self.files = self.trial.quantized(graph, self.dense, self.modes, "")

    def float32(self) -> str:
        """Return the error of the float32 file against PyTorch."""
        network, _ = load_network(self.dense, self.trial.model.architecture, self.data.dataset)
        with torch.inference_mode():
            expected = network.eval()(Normalize(self.data.dataset)(torch.from_numpy(self.images))).numpy()
        return error_of(logits_of(self.files["float32"], self.images), expected)

    def static(self) -> str:
        """Return the error of the int8 file against the float32 one, and how often both name the same class."""
        expected = logits_of(self.files["float32"], self.images)
        logits = logits_of(self.files["static"], self.images)
        return f"{error_of(logits, expected)} / {numpy.mean(logits.argmax(1) == expected.argmax(1)):.0%}"

    def size(self) -> str:
        """Return the size of the int8 file, relative to the float32 one."""
        sizes = [pathlib.Path(self.files[mode]).stat().st_size for mode in ("static", "float32")]
        return f"{sizes[0] / sizes[1]:.2f}"

    def time(self) -> str:
        """Return the median time of an image of the int8 file, relative to the float32 one."""
        calls = {mode: functools.partial(load, self.files[mode], 1) for mode in ("static", "float32")}
        times = time_in_turns(calls, self.images[:TIMED_IMAGES])
        return f"{numpy.median(times['static'].wall / times['float32'].wall):.2f}"

    def macs(self) -> str:
        """Return the millions of multiply-accumulates of an image."""
        count = count_multiply_accumulates(onnx.load(self.files["float32"]))
        return "unknown" if count is None else f"{count / 1e6:.0f}"

    def zeros(self) -> str:
        """Return the share of zeros in the float32 file of the network pruned globally."""
        pruned = self.trial.pruned(self.dense, "global", RATE)
        file = self.trial.quantized(self.graph, pruned, ["float32"], "global")["float32"]
        logits_of(file, self.images)
        contents = count_contents(onnx.load(file))
        return f"{contents['zeros'] / contents['weights']:.3f}"

    def channel(self) -> str:
        """Return the share of weights that channel pruning removes, and the error of the int8 file."""
        pruned = self.trial.pruned(self.dense, "channel", RATE)
        provenance = load_checkpoint(pruned)[1]
        files = self.trial.quantized(self.trial.exported(pruned), pruned, self.modes, "channel")
        logits = {mode: logits_of(file, self.images) for mode, file in files.items()}
        removed = f"{1 - provenance['weights'] / provenance['dense_weights']:.3f}"
        return removed if "static" not in logits else f"{removed} / {error_of(logits['static'], logits['float32'])}"

    def qat(self) -> str:
        """Return the error of the file against the network that was trained for it, and what a grey level makes."""
        self.trial.trained_for_int8(self.dense, "")
        file = self.trial.onnx_file("", "qat")
        logits_of(file, self.images)
        provenance = description(onnx.load(file))["provenance"]
        return f"{provenance['qat_error']} / {provenance['qat_noise']}"


# title -> what is measured, and the mode that it needs
COLUMNS: dict[str, tuple[Callable[[Network], str], str]] = {
    "float32: error against PyTorch": (Network.float32, "float32"),
    "static: error against float32 / same class": (Network.static, "static"),
    "size static : float32": (Network.size, "static"),
    "time static : float32": (Network.time, "static"),
    "MMACs": (Network.macs, "float32"),
    f"global {RATE}: zeros in the file": (Network.zeros, "float32"),
    f"channel {RATE}: removed / static: error against float32": (Network.channel, "float32"),
    "qat: error against the trained network / noise of a grey level": (Network.qat, "qat"),
}
MEMORY = "MiB at the peak"


def measure(architecture: str, size: int, modes: list[str]) -> dict[str, str]:
    """Return the cells of a network's row: what was measured, or why it was not; size: pixels per side of images."""
    compute_reproducibly(1)
    columns = {title: part for title, (part, mode) in COLUMNS.items() if mode in modes}
    with tempfile.TemporaryDirectory() as folder:
        try:
            network = Network(architecture, size, folder, modes)
        except UserError as error:
            return dict.fromkeys(columns, f"stopped: {error}")
        cells = {title: outcome(functools.partial(part, network)) for title, part in columns.items()}
    return cells | {MEMORY: str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)}


def run(name: str, architecture: str, results: pathlib.Path, arguments: argparse.Namespace) -> None:
    """Measure a network in a process of its own and write its JSON file, with what ended the process if it ended."""
    output = results / f"{name}.json"
    options = ["--modes", *arguments.modes, "--measure", architecture, str(output)]
    command = [sys.executable, __file__, str(results), *options]
    limit = arguments.memory << 20
    with open(results / f"{name}.log", "w") as log:
        try:
            subprocess.run(
                command,
                stdout=log,
                stderr=log,
                timeout=arguments.seconds,
                check=True,
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
            )
        except subprocess.SubprocessError as error:
            write_json(output, {title: f"FAILED: {type(error).__name__}" for title in COLUMNS})


def table(results: pathlib.Path, names: list[str]) -> str:
    """Return the Markdown table of the networks."""
    rows = {name: json.loads((results / f"{name}.json").read_text()) for name in names}
    titles = [title for title in (*COLUMNS, MEMORY) if any(title in row for row in rows.values())]
    lines = ["| network | " + " | ".join(titles) + " |", "|---" * (len(titles) + 1) + "|"]
    for name, row in rows.items():
        cells = " | ".join(row.get(title, "").replace("|", "\\|").replace("\n", " ") for title in titles)
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines)


def main(arguments: argparse.Namespace) -> None:
    """Measure what is not measured yet, and print the table."""
    results = arguments.results
    results.mkdir(parents=True, exist_ok=True)
    names = arguments.networks.split(",")
    for name in names:
        if not (results / f"{name}.json").exists():
            print(name, file=sys.stderr, flush=True)
            run(name, f"{ZOO}:{name}", results, arguments)
    print(table(results, names))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=pathlib.Path, help="folder of a JSON file and a log per network")
    parser.add_argument("--networks", default=",".join(NETWORKS), metavar="A,B")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=["float32", "static"], help="qat takes longest")
    parser.add_argument("--seconds", type=int, default=900, help="that a network may take")
    parser.add_argument("--memory", type=int, default=12000, help="MiB of addresses that a network may take")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)  # architecture and JSON file, in the process
    given = parser.parse_args()
    if given.measure:
        architecture, output = given.measure
        size = IMAGE_SIZES.get(architecture.rpartition(":")[2], 64)
        write_json(output, measure(architecture, size, given.modes))
    else:
        main(given)
