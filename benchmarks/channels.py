"""What the removal of channels leaves of a network's weights and multiplications, and how much faster it gets.

For images of 32x32 pixels, 3 channels, and 10 classes, in ONNX Runtime on the CPU, one image at a time and turn by turn
with the dense float32 network. Prints a Markdown table; intervals are those of the paired ratio over loads, at 95 %.
Weights are random unless a checkpoint is given: times do not depend on their values, but which channels go does.
"""

import argparse
import copy
import functools
import pathlib
import sys
import tempfile
from collections.abc import Callable

import numpy
import onnx
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "scripts"))

from elagage.data import Dataset
from elagage.onnx.graph import with_weights
from elagage.onnx.quantization import quantize
from elagage.onnx.runtime import Model, load, machine
from elagage.pytorch.channels import channel_prune
from elagage.pytorch.checkpoints import load_network
from elagage.pytorch.export import export_graph
from elagage.pytorch.models import build_network
from elagage.pytorch.pruning import count_weights
from elagage.statistics import loads_interval
from elagage.timing import time_in_turns

DATASET = Dataset("noise", [str(number) for number in range(10)], 3, 32, [0.5] * 3, [0.25] * 3, False, {}, {})
RATES = (0.3, 0.5, 0.7)
CALIBRATION = 64  # images


def multiplications(network: nn.Module) -> int:
    """Return the multiply-accumulates of one image."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network.eval()(torch.zeros(1, DATASET.channels, DATASET.image_size, DATASET.image_size))
    return counter.get_total_flops() // 2


def loaders(network: nn.Module, images: numpy.ndarray, threads: int, stem: str) -> dict[str, Callable[[], Model]]:
    """Write the network as float32 and as static int8; return functions that load them."""
    state = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    float32 = with_weights(export_graph(network, DATASET), state)
    models = {"float32": float32, "int8": quantize(float32, "static", images[:CALIBRATION])}
    for name, model in models.items():
        onnx.save(model, f"{stem}-{name}.onnx")
    return {name: functools.partial(load, f"{stem}-{name}.onnx", threads) for name in models}


def main(architecture: str, checkpoint: str | None, images: int, threads: int) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    pixels = numpy.random.default_rng(0).integers(0, 256, (images, 3, 32, 32), dtype=numpy.uint8)
    dense = load_network(checkpoint, architecture, DATASET)[0] if checkpoint else build_network(architecture, 10, 3)
    networks = {0.0: dense}
    for rate in RATES:
        networks[rate] = copy.deepcopy(dense)
        channel_prune(networks[rate], DATASET, rate, count_weights(dense, DATASET).weights)
    with tempfile.TemporaryDirectory() as folder:
        models = {
            (rate, mode): load_model
            for rate, network in networks.items()
            for mode, load_model in loaders(network, pixels, threads, f"{folder}/{rate}").items()
        }
        times = time_in_turns(models, pixels)
    setting = machine()
    print(f"{architecture}, {checkpoint or 'random weights'}; {images} images, threads: {threads}")
    print(f"{setting['cpu']} ({setting['instruction_set']})\n")
    print("| rate | weights | share removed | multiply-accumulates | mode | ms per image | times as fast [95 %] |")
    print("|---|---|---|---|---|---|---|")
    dense_counts = count_weights(dense, DATASET).weights, multiplications(dense)
    for (rate, mode), (ns, _) in times.items():
        weights, products = count_weights(networks[rate], DATASET).weights, multiplications(networks[rate])
        ratio = "{:.2f} [{:.2f}, {:.2f}]".format(*loads_interval(numpy.median(times[0.0, "float32"].wall / ns, axis=1)))
        left = f"{weights} | {1 - weights / dense_counts[0]:.1%} | {products} ({products / dense_counts[1]:.0%})"
        print(f"| {rate} | {left} | {mode} | {numpy.median(ns) / 1e6:.3f} | {ratio} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("architecture", nargs="?", default="resnet20")
    parser.add_argument("--checkpoint", help="a dense .safetensors of a study of such images")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    main(**vars(parser.parse_args()))
