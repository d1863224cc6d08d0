"""Time each variant of a checkpoint on single images, turn by turn with the dense float32 model."""

import numpy

from elagage.data import Split
from elagage.files import reading, write_json
from elagage.job import job
from elagage.onnx.runtime import RUNTIME, load, machine, time_in_turns
from elagage.refusals import refusing


def evaluate_latency(dense: str, outputs: dict[str, str], images: numpy.ndarray, *, threads: int) -> None:
    """Write for each variant (outputs: its ONNX file -> its JSON) its times and the dense model's, in ns.

    images: uint8 [n, channels, height, width], timed one at a time.
    """
    models = {path: load(path, threads) for path in outputs}
    times = time_in_turns({"dense": load(dense, threads), **models}, images)
    setting = {**machine(), "threads": threads, **RUNTIME}
    for path, latency in outputs.items():
        write_json(latency, {**setting, "dense_ns": times["dense"].tolist(), "ns": times[path].tolist()})
        medians = [numpy.median(times[name]) / 1e6 for name in (path, "dense")]
        print("{}: median {:.3f} ms, dense {:.3f} ms".format(path, *medians))


if "snakemake" in globals():
    with job(snakemake.log[0]):
        test = Split.read(snakemake.input.test_images, snakemake.input.test_labels)
        outputs = {}
        for onnx_file, latency in zip(snakemake.input.onnx_files, snakemake.output.latency, strict=True):
            with refusing(latency), reading(onnx_file):
                outputs[onnx_file] = latency
        evaluate_latency(
            snakemake.input.dense,
            outputs,
            test.first(snakemake.params.latency_images, "evaluation.latency_images").images,
            threads=snakemake.params.threads,
        )
