"""Time the dense model in eager PyTorch, the usual baseline, turn by turn with the same model in ONNX Runtime."""

import functools

import numpy
import torch
from torch import nn

from elagage.data import Dataset, Split
from elagage.files import write_json
from elagage.job import job
from elagage.onnx.runtime import load, machine
from elagage.pytorch.checkpoints import load_network
from elagage.pytorch.models import Normalize
from elagage.timing import Call, OtherWork, time_in_turns


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
    """Write the times of both, in ns (JSON); images: uint8 [n, channels, height, width], timed one at a time."""
    torch.set_num_threads(threads)

    def load_eager() -> Call:
        network, _ = load_network(dense, architecture, dataset)
        eager = nn.Sequential(Normalize(dataset), network).eval()
        return torch.inference_mode()(lambda image: eager(torch.from_numpy(image)).numpy())

    others = OtherWork()
    times = time_in_turns({"eager": load_eager, "dense": functools.partial(load, dense_onnx, threads)}, images)
    setting = {**machine(), "threads": threads, "torch": torch.__version__, "images": len(images)}
    setting["machine_busy"] = others.share()
    write_json(output, {**setting, **{name: measured.as_json() for name, measured in times.items()}})
    print({name: f"median {numpy.median(measured.wall) / 1e6:.3f} ms" for name, measured in times.items()})


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
