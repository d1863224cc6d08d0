"""Time the dense model in eager PyTorch, the usual baseline, turn by turn with the same model in ONNX Runtime."""

import numpy
import torch
from torch import nn

from elagage.data import Dataset, Split
from elagage.files import write_json
from elagage.job import job
from elagage.onnx.runtime import load, machine, time_in_turns
from elagage.pytorch.checkpoints import load_network
from elagage.pytorch.models import Normalize


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
    network, _ = load_network(dense, architecture, dataset)
    eager = nn.Sequential(Normalize(dataset), network).eval()

    @torch.inference_mode()
    def run_eager(image: numpy.ndarray) -> numpy.ndarray:
        return eager(torch.from_numpy(image)).numpy()

    times = time_in_turns({"eager": run_eager, "dense": load(dense_onnx, threads)}, images)
    setting = {**machine(), "threads": threads, "torch": torch.__version__}
    write_json(output, {**setting, "dense_ns": times["dense"].tolist(), "ns": times["eager"].tolist()})
    print({name: f"median {numpy.median(ns) / 1e6:.3f} ms" for name, ns in times.items()})


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
