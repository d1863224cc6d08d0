"""Bytes and speed of packed files, beside the entropy of their weights and `xz -9e`, as a Markdown table.

`python benchmarks/packing.py` draws ResNets at random, the 8, 20 and 56; with `--checkpoint PATH...` it takes trained
ones (dense.safetensors of a study whose models are built in), with `--onnx PATH...` files as they are. Each network is
pruned globally by magnitude, and stored as float32 and as static int8, calibrated on random images. Speeds are bytes of
the ONNX file by CPU time, because other work on a machine changes wall-clock time threefold: medians of REPETITIONS.
"""

import argparse
import lzma
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator

import numpy
import onnx_ir
import torch
from torch import nn

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "scripts"))

from elagage.data import Dataset
from elagage.onnx.deployed import describe, strip
from elagage.onnx.graph import with_weights
from elagage.onnx.quantization import quantize
from elagage.onnx.tensors import initializers
from elagage.packing.pack import entropy_bytes, pack, packed_weight_bytes
from elagage.packing.unpack import unpack
from elagage.pytorch.checkpoints import load_checkpoint, load_network
from elagage.pytorch.export import export_graph
from elagage.pytorch.models import build_network
from elagage.pytorch.pruning import magnitude_prune

RATES = (0.0, 0.5, 0.9, 0.95)
REPETITIONS = 5
CIFAR10 = Dataset("random", [str(label) for label in range(10)], 3, 32, [0.5] * 3, [0.25] * 3, True, {}, {})
COLUMNS = (
    *("network", "rate", "type", "ONNX / kB", "packed / kB", "xz -9e / kB", "saved", "packed weights / kB"),
    *("entropy / kB", "pack / MB/s", "unpack / MB/s"),
)


def drawn(architecture: str) -> Callable[[], nn.Module]:
    """Return a function that builds the same random network each time it is called."""

    def build() -> nn.Module:
        torch.manual_seed(0)
        return build_network(architecture, len(CIFAR10.classes), CIFAR10.channels)

    return build


def trained(checkpoint: str) -> Callable[[], nn.Module]:
    """Return a function that loads a checkpoint each time it is called."""
    architecture = load_checkpoint(checkpoint)[1]["architecture"]
    return lambda: load_network(checkpoint, architecture, CIFAR10)[0]


def variants(build: Callable[[], nn.Module]) -> Iterator[tuple[float, str, bytes]]:
    """Yield (rate, type, ONNX file) for each rate and type."""
    shape = 256, CIFAR10.channels, CIFAR10.image_size, CIFAR10.image_size
    images = numpy.random.default_rng(0).integers(0, 256, shape, dtype=numpy.uint8)
    graph = onnx_ir.to_proto(export_graph(build(), CIFAR10))
    for rate in RATES:
        network = build()
        magnitude_prune(network, CIFAR10, "global", rate)
        state = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
        float32 = with_weights(onnx_ir.from_proto(graph), state)
        for kind, model in (("static int8", quantize(float32, "static", images)), ("float32", float32)):
            strip(model)
            describe(model, {"classes": CIFAR10.classes})
            yield rate, kind, model.SerializeToString()


def measured(content: bytes) -> list[str]:
    """Return the columns from the ONNX file's size on."""
    tensors = initializers(content)
    pack_speed, packed = speed(lambda: pack(content, tensors), len(content))
    unpack_speed, unpacked = speed(lambda: unpack(packed), len(content))
    assert unpacked == content
    xz = len(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME))
    entropy = entropy_bytes(content, [tensor for tensor in tensors if tensor.weight])
    sizes = [f"{size / 1000:.1f}" for size in (len(content), len(packed), xz, packed_weight_bytes(packed), entropy)]
    speeds = [f"{pack_speed:.0f}", f"{unpack_speed:.0f}"]
    return [*sizes[:3], f"{1 - len(packed) / xz:.1%}", *sizes[3:], *speeds]


def speed(function: Callable[[], bytes], size: int) -> tuple[float, bytes]:
    """Return megabytes per second of CPU time, and what the function returns."""
    seconds = []
    for _ in range(REPETITIONS):
        start = time.process_time()
        result = function()
        seconds.append(time.process_time() - start)
    return size / statistics.median(seconds) / 1e6, result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--checkpoint", nargs="+", help="dense.safetensors of networks for 10 classes of 32x32 images")
    parser.add_argument("--onnx", nargs="+", help="ONNX files, such as all of results/models")
    arguments = parser.parse_args()
    networks = {path: trained(path) for path in arguments.checkpoint or ()}
    if not networks and not arguments.onnx:
        networks = {name: drawn(name) for name in ("resnet8", "resnet20", "resnet56")}
    rows = [COLUMNS, ["---"] * len(COLUMNS)]
    for name, build in networks.items():
        for rate, kind, content in variants(build):
            rows.append([name, f"{rate:g}", kind, *measured(content)])
    for path in arguments.onnx or ():
        rows.append([path, "", "", *measured(pathlib.Path(path).read_bytes())])
    for row in rows:
        print("|", " | ".join(row), "|")
