"""Time each variant of a checkpoint on single images, and on batches, turn by turn with the dense float32 model."""

import functools
from collections.abc import Iterable

import numpy

from elagage.data import Split
from elagage.files import reading, write_json
from elagage.job import job
from elagage.onnx.profile import time_by_operator
from elagage.onnx.runtime import RUNTIME, load, machine
from elagage.refusals import refusing
from elagage.timing import OtherWork, time_in_turns


def evaluate_latency(
    dense: str, outputs: dict[str, str], images: numpy.ndarray, *, threads: int, batch_sizes: Iterable[int] = ()
) -> None:
    """Write for each variant (outputs: its ONNX file -> its JSON) its times and the dense model's, in ns.

    And the share of its time that each of its operators takes. images: uint8 [n, channels, height, width], timed one at
    a time and then in batches of each of the sizes.
    """
    models = {"dense": dense, **{path: path for path in outputs}}
    load_each = {name: functools.partial(load, path, threads) for name, path in models.items()}
    others = OtherWork()
    times = time_in_turns(load_each, images)
    batches = {size: time_in_turns(load_each, images, size) for size in batch_sizes}
    setting = {**machine(), "threads": threads, **RUNTIME, "images": len(images)}
    setting["machine_busy"] = others.share()
    for path, latency in outputs.items():
        throughput = {size: of_size[path].wall.tolist() for size, of_size in batches.items()}
        measured = {"variant": times[path].as_json(), "dense": times["dense"].as_json(), "batch_ns": throughput}
        measured["operators"] = time_by_operator(path, images, threads)
        write_json(latency, {**setting, **measured})
        medians = [numpy.median(times[name].wall) / 1e6 for name in (path, "dense")]
        print("{}: median {:.3f} ms, dense {:.3f} ms".format(path, *medians))


if "snakemake" in globals():
    with job(snakemake.log[0]):
        test = Split.read(snakemake.input.test_images, snakemake.input.test_labels)
        outputs = {}
        for onnx_file, latency in zip(snakemake.input.onnx_files, snakemake.output.latency, strict=True):
            with refusing(latency), reading(onnx_file):
                outputs[onnx_file] = latency
        if outputs:
            evaluate_latency(
                snakemake.input.dense,
                outputs,
                test.first(snakemake.params.latency_images, "evaluation.latency_images").images,
                threads=snakemake.params.threads,
                batch_sizes=snakemake.params.batch_sizes,
            )
