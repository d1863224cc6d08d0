"""Measure which kinds of layers int8 makes slower, with nothing else running on the machine."""

import collections
import functools

import numpy
import onnx

from elagage.checkpoints import named
from elagage.data import Split
from elagage.errors import RefusedError
from elagage.files import write_json
from elagage.job import job, say
from elagage.modes import Calibration, chosen_calibration
from elagage.onnx.float32_layers import int8_layers
from elagage.onnx.graph import float32_model
from elagage.onnx.qdq import known_ranges
from elagage.onnx.quantization import quantize
from elagage.onnx.runtime import RUNTIME, Model, machine, session
from elagage.progress import progress
from elagage.refusals import refusing
from elagage.statistics import loads_interval
from elagage.timing import BUSY, OtherWork, Times, time_in_turns, timing_again

IMAGES = 100  # that each file is timed on, one at a time
FEW = 8  # images for files whose ranges are known
LEAST = 1.02  # times as fast, less is not worth another kind in float32


def time_layers(
    graph: str, checkpoint: str, *, training: Split, calibration: Calibration, threads: int, output: str
) -> None:
    """Write which layers are left in float32 for speed, and what was measured (JSON).

    Kind by kind, that which makes the static file fastest, as long as one makes it LEAST times as fast, and the
    interval of the ratio over loads of the files says that it does. float32: the names of these layers; rounds: of each
    round, by kind, how many times as fast the file becomes with this kind in float32, too, low, mean and high.
    """
    float32, provenance = float32_model(graph, checkpoint)
    int8 = quantize(float32, "static", training.images, calibration=calibration)
    kinds, ranges = collections.defaultdict(list), known_ranges(int8)
    for name, layer in int8_layers(float32, int8, calibration.operators).items():
        kinds[layer.kind].append(name)
    others, rounds, left = OtherWork(), [], []
    best = int8
    with progress(len(kinds), " kinds of layers", f"time {named(provenance)}") as advance:
        while True:
            files = {"": best}
            for kind in kinds:
                if kind not in left:
                    kept = tuple(name for other in (*left, kind) for name in kinds[other])
                    some = calibration._replace(float32=(*calibration.float32, *kept))
                    try:
                        files[kind] = quantize(float32, "static", training.images[:FEW], ranges, some)
                    except RefusedError as error:  # nothing with a weight would be int8
                        print(f"{kind}: {error}")
            times = timed(files, training.images[:IMAGES], threads)
            ratios = {kind: ratio(times[""], times[kind]) for kind in files if kind}
            rounds.append(
                {kind: dict(zip(("low", "mean", "high"), found, strict=True)) for kind, found in ratios.items()}
            )
            print(f"left {left}: {rounds[-1]}")
            fastest = max(ratios, key=lambda kind: ratios[kind][1], default=None)
            if fastest is None or ratios[fastest][1] < LEAST or ratios[fastest][0] <= 1:
                break
            left.append(fastest)
            best = files[fastest]
            advance(1)
    chosen = [name for kind in left for name in kinds[kind]]
    setting = {**machine(), "threads": threads, **RUNTIME, "machine_busy": others.share()}
    if (setting["machine_busy"] or 0) > BUSY:
        say(
            f"other programs took {setting['machine_busy']:.0%} of this machine's CPU time while layers were timed, by "
            f"which mode mixed leaves some in float32. To time them again, end the same command with "
            f"{timing_again('time_layers')}"
        )
    write_json(output, {"float32": chosen, "kinds": left, "rounds": rounds, **setting})


def timed(files: dict[str, onnx.ModelProto], images: numpy.ndarray, threads: int) -> dict[str, Times]:
    """Return the times of each file on single images, uint8 [n, channels, height, width]."""
    contents = {name: model.SerializeToString() for name, model in files.items()}
    load = {name: functools.partial(lambda content: Model(session(content, threads)), contents[name]) for name in files}
    return time_in_turns(load, images)


def ratio(slow: Times, fast: Times) -> tuple[float, float, float]:
    """Return low, mean and high of how many times as fast a file is, an interval of 95 % over its loads."""
    mean, low, high = loads_interval(numpy.median(slow.wall / fast.wall, axis=1))
    return low, mean, high


if "snakemake" in globals():
    with job(snakemake.log[0]), refusing(snakemake.output):
        training = Split.read(snakemake.input.train_images, snakemake.input.train_labels)
        time_layers(
            snakemake.input.graph,
            snakemake.input.checkpoint,
            training=training.first(snakemake.params.calibration_images, "quantization.calibration_images"),
            calibration=chosen_calibration(snakemake.input.choice),
            threads=snakemake.params.threads,
            output=snakemake.output.times,
        )
