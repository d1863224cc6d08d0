"""Time the dense model in eager PyTorch, the usual baseline, turn by turn with the same model in ONNX Runtime."""

import functools
from collections.abc import Callable

import numpy
import torch
from torch import nn

from elagage.data import Dataset, Split
from elagage.errors import UserError
from elagage.files import write_json
from elagage.job import job
from elagage.logits import SUMS_DIFFER, logits_difference
from elagage.onnx.runtime import load, machine
from elagage.pytorch.checkpoints import load_network
from elagage.pytorch.independence import SHARE_OF_NOISE, with_noise
from elagage.pytorch.models import Normalize
from elagage.timing import OtherWork, time_in_turns

COMPARED = 8  # images whose logits are compared
Logits = Callable[[numpy.ndarray], numpy.ndarray]  # uint8 [n, channels, height, width] -> float32 [n, classes]


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

    def load_eager() -> Logits:
        network, _ = load_network(dense, architecture, dataset)
        eager = nn.Sequential(Normalize(dataset), network).eval()
        return torch.inference_mode()(lambda image: eager(torch.from_numpy(image)).numpy())

    check_same_logits(load_eager(), load(dense_onnx, threads), images[:COMPARED])
    others = OtherWork()
    times = time_in_turns({"eager": load_eager, "dense": functools.partial(load, dense_onnx, threads)}, images)
    setting = {**machine(), "threads": threads, "torch": torch.__version__, "images": len(images)}
    setting["machine_busy"] = others.share()
    write_json(output, {**setting, **{name: measured.as_json() for name, measured in times.items()}})
    print({name: f"median {numpy.median(measured.wall) / 1e6:.3f} ms" for name, measured in times.items()})


def check_same_logits(eager: Logits, deployed: Logits, images: numpy.ndarray) -> None:
    """Raise UserError if PyTorch and the file give other logits.

    The graph was exported, and checked, before there were the weights of this checkpoint. images: as many as are to be
    compared; how much the sums of a network may differ is taken from what a grey level of noise changes.
    """
    expected, noisy, logits = eager(images), eager(with_noise(images)), deployed(images)
    allowed = max(SUMS_DIFFER, SHARE_OF_NOISE * float(numpy.nan_to_num(logits_difference(noisy, expected))))
    if not logits_difference(logits, expected) <= allowed:
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
