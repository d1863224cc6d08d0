"""What quantization-aware training gains over static quantization: accuracy on digits, and time per image.

python benchmarks/qat.py FOLDER takes about ten minutes on one core. Names of built-in networks after the folder choose
those that are trained. The table, in Markdown, and the times are printed to standard error, the trainings to standard
output.
"""

import argparse
import dataclasses
import functools
import os
import pathlib
import sys

import numpy
import onnx
import onnx_ir
import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "scripts"))

from elagage.data import SPLITS, Dataset, PreparedData, Split
from elagage.modes import MINMAX
from elagage.onnx.graph import with_weights
from elagage.onnx.quantization import quantize
from elagage.onnx.runtime import load, predictions
from elagage.pytorch.checkpoints import load_network, save_checkpoint
from elagage.pytorch.export import export_graph
from elagage.pytorch.models import build_network
from elagage.pytorch.pruning import magnitude_prune
from elagage.pytorch.qat import prepare
from elagage.pytorch.training import fit
from elagage.pytorch.training_state import TrainingState
from elagage.schedules import TrainingSettings, warmup_and_cosine
from elagage.timing import time_in_turns
from prepare_data import prepare_data
from quantize_qat import quantize_qat

SETTINGS = TrainingSettings(
    epochs=30, batch_size=64, learning_rate=0.1, momentum=0.9, weight_decay=0.0005, warmup_epochs=1, flip=None
)
QAT = dataclasses.replace(SETTINGS, epochs=5, learning_rate=0.001, warmup_epochs=0)
CALIBRATION = 512  # images
# A block that is called three times, with one batch norm for all calls, `x + y`, and a layer without batch norm.
REUSED = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(in_channels, 16, 3, 2, padding=1), nn.ReLU())
        self.block = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.out = nn.Conv2d(16, 32, 3, 2, padding=1)
        self.linear = nn.Linear(32, num_classes)

    def forward(self, x):
        x = start = self.stem(x)
        for _ in range(3):
            x = self.block(x)
        return self.linear((self.out(x + start)).relu().mean((2, 3)))
"""
NETWORKS = {"resnet8": 0.0, "resnet8 pruned": 0.8, "resnet20": 0.0, "reused.py:Net": 0.0, "reused.py:Net pruned": 0.5}


def accuracy(model: onnx.ModelProto, path: pathlib.Path, test: Split) -> float:
    """Return the test accuracy of an ONNX model, which is written to `path`."""
    onnx.save(model, path)
    return float((predictions(load(path, 1), test) == test.labels).mean())


def float32_of(network: torch.nn.Module, dataset: Dataset) -> onnx.ModelProto:
    """Return the float32 ONNX model of a network."""
    tensors = {name: tensor.detach().numpy() for name, tensor in network.state_dict().items()}
    return with_weights(export_graph(network, dataset), tensors)


def variants(
    folder: pathlib.Path, name: str, learning_rate: float, seed: int, parts: dict[str, Split]
) -> tuple[float, float, float]:
    """Return the test accuracies of float32, static and qat for one training."""
    dataset, architecture = Dataset.read(folder / "dataset.json"), name.split()[0]
    network = build_network(architecture, len(dataset.classes), dataset.channels, seed)
    dense = folder / f"{architecture.partition('.')[0]}-{seed}.safetensors"
    if not dense.exists():
        settings = dataclasses.replace(SETTINGS, learning_rate=learning_rate)
        identity = {"network": architecture, "seed": seed}
        state = TrainingState(folder / "training_state.pt", identity)
        data = PreparedData(dataset, parts["train"], parts["validation"])
        cpu = torch.device("cpu")
        fit(network, data, settings, warmup_and_cosine(settings), seed=seed, label=name, state=state, device=cpu)
        save_checkpoint(dense, network.state_dict(), {})
        state.remove()
    network, _ = load_network(dense, architecture, dataset)
    if NETWORKS.get(name):
        magnitude_prune(network, dataset, "global", NETWORKS[name])
    source = folder / "source.safetensors"
    save_checkpoint(source, network.state_dict(), {})
    float32 = float32_of(network, dataset)
    static = quantize(float32, "static", parts["train"].images[:CALIBRATION])
    output = folder / f"{name}-{seed}-qat.onnx"
    quantize_qat(
        PreparedData(dataset, parts["train"], parts["validation"]),
        source,
        architecture,
        QAT,
        seed=seed,
        calibration_images=CALIBRATION,
        calibration=MINMAX,
        state=TrainingState(folder / "qat_state.pt", {"network": name, "seed": seed}),
        output=output,
    )
    models = {"float32": float32, "static": static, "qat": onnx.load(output)}
    return tuple(accuracy(model, folder / f"{kind}.onnx", parts["test"]) for kind, model in models.items())


def accuracies(folder: pathlib.Path, networks: list[str], image_size: int, learning_rate: float, seeds: range) -> None:
    """Print the test accuracies of all networks and seeds as a Markdown table."""
    names = [f"{split}_{kind}" for split in SPLITS for kind in ("images", "labels")]
    outputs = {name: str(folder / f"{name}.npy") for name in names} | {"dataset": str(folder / "dataset.json")}
    prepare_data("digits", "", image_size, 0.1, outputs)
    parts = {split: Split.read(outputs[f"{split}_images"], outputs[f"{split}_labels"]) for split in SPLITS}
    (folder / "reused.py").write_text(REUSED)
    rows = []
    for name in networks:
        each = numpy.array([variants(folder, name, learning_rate, seed, parts) for seed in seeds])
        for seed, row in [*enumerate(each), ("mean", each.mean(0))]:
            rows.append(f"| {name} | {seed} | " + " | ".join(f"{100 * value:.2f}" for value in row) + " |")
    print("\n| network | seed | float32 | static | qat |\n|---|---|---|---|---|", *rows, sep="\n", file=sys.stderr)


def times(folder: pathlib.Path) -> None:
    """Print the median milliseconds per image of a ResNet-20 at 32x32, batch 1, one thread, in three rounds."""
    dataset = Dataset("toy", list("0123456789"), 3, 32, [0.5] * 3, [0.25] * 3, True, {}, {})
    images = numpy.random.default_rng(0).integers(0, 256, (1000, 3, 32, 32), dtype=numpy.uint8)
    network = build_network("resnet20", 10, 3).eval()
    trainable = prepare(network, dataset, images[:128], torch.device("cpu"))
    float32 = with_weights(onnx_ir.from_proto(trainable.graph), {k: v.numpy() for k, v in network.state_dict().items()})
    models = {"float32": float32, "static": quantize(float32, "static", images[:128])}
    with torch.no_grad():
        for part in trainable.fake_quantized.ranges.values():
            part.high *= 1.01  # other ranges than those of static, as after training
    models["qat"] = trainable.deployed()
    calls = {}
    for name, model in models.items():
        onnx.save(model, folder / f"timed-{name}.onnx")
        calls[name] = functools.partial(load, folder / f"timed-{name}.onnx", 1)
    for _ in range(3):
        medians = {name: numpy.median(part.wall) / 1e6 for name, part in time_in_turns(calls, images).items()}
        print(" ".join(f"{name}={value:.3f} ms" for name, value in medians.items()), file=sys.stderr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=pathlib.Path, help="where checkpoints and models are written")
    parser.add_argument("networks", nargs="*", metavar="network", help="such as resnet56")
    parser.add_argument("--image-size", type=int, default=16, help="pixels per side; the digits themselves have 8")
    parser.add_argument("--learning-rate", type=float, default=0.1, help="of the trainings; resnet50 needs less")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    work = (arguments.folder / f"{arguments.image_size}-{arguments.learning_rate:g}").resolve()
    work.mkdir(parents=True, exist_ok=True)
    os.chdir(work)
    times(work)
    networks = arguments.networks or list(NETWORKS)
    accuracies(work, networks, arguments.image_size, arguments.learning_rate, range(3))
