"""Time the dense model in eager PyTorch, the usual baseline, turn by turn with the same model in ONNX Runtime."""

import functools

import numpy
import torch
from torch import nn

from elagage.data import Dataset, Split
from elagage.errors import UserError
from elagage.files import write_json
from elagage.job import job
from elagage.logits import logits_difference
from elagage.onnx.runtime import Model, load, machine
from elagage.pytorch.checkpoints import load_network
from elagage.pytorch.independence import allowed_difference
from elagage.pytorch.models import Normalize, checked_logits
from elagage.timing import Call, OtherWork, time_in_turns

COMPARED = 8  # images whose logits are compared


def evaluate_latency_eager(
    dataset: Dataset,
    dense: str,
    architecture: str,
    *,
    dense_onnx: str,
    images: numpy.ndarray,
    threads: int,
    output: str,
) -> None:
    """Write the times of both, in ns (JSON); images: uint8 [n, channels, height, width], timed one at a time.

    Raises UserError if the file computes something else than the trained network.
    """
    torch.set_num_threads(threads)

    def eager_network() -> nn.Module:
        network, _ = load_network(dense, architecture, dataset)
        return nn.Sequential(Normalize(dataset), network).eval()

    def load_eager() -> Call:
        eager = eager_network()
        return torch.inference_mode()(lambda image: eager(torch.from_numpy(image)).numpy())

    compared = torch.from_numpy(numpy.array(images[:COMPARED]))
    check_same_logits(eager_network(), load(dense_onnx, threads), compared, len(dataset.classes))
    others = OtherWork()
    times = time_in_turns({"eager": load_eager, "dense": functools.partial(load, dense_onnx, threads)}, images)
    setting = {**machine(), "threads": threads, "torch": torch.__version__, "images": len(images)}
    setting["machine_busy"] = others.share()
    write_json(output, {**setting, **{name: measured.as_json() for name, measured in times.items()}})
    print({name: f"median {numpy.median(measured.wall) / 1e6:.3f} ms" for name, measured in times.items()})


def check_same_logits(network: nn.Module, deployed: Model, images: torch.Tensor, classes: int) -> None:
    """Raise UserError if PyTorch and the file give other logits for these images, uint8 [n, channels, height, width].

    The graph was exported, and checked, before there were the weights of this checkpoint.
    """
    expected, logits = checked_logits(network, images, classes).numpy(), deployed(images.numpy())
    if not logits_difference(logits, expected) <= allowed_difference(network, images, classes):
        same = (logits.argmax(1) == expected.argmax(1)).mean()
        raise UserError(
            f"the ONNX file of the dense network gives other logits than PyTorch: {same:.0%} of {len(images)} test "
            f"images get the same class; the network computes with something that is not in its state dict, as what is "
            f"drawn or counted when a file is imported, or while it trains; register it as a buffer"
        )


if "snakemake" in globals():
    with job(snakemake.log[0]):
        test = Split.read(snakemake.input.test_images, snakemake.input.test_labels)
        evaluate_latency_eager(
            Dataset.read(snakemake.input.dataset, snakemake.params.trained_with),
            snakemake.input.dense,
            snakemake.params.architecture,
            dense_onnx=snakemake.input.dense_onnx,
            images=test.first(snakemake.params.latency_images, "evaluation.latency_images").images,
            threads=snakemake.params.threads,
            output=snakemake.output.eager,
        )
