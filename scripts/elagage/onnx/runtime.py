"""Measurements of ONNX files in ONNX Runtime on the CPU: predictions, and time per image."""

import json
import os
import platform
import time
from collections.abc import Callable, Mapping

import numpy
import onnxruntime

from elagage.data import Split
from elagage.errors import UserError
from elagage.files import reading

RUNTIME = {"onnxruntime": onnxruntime.__version__}  # what measurements say they were made with
Model = Callable[[numpy.ndarray], numpy.ndarray]  # uint8 [n, channels, height, width] -> logits, float32 [n, classes]
EVALUATION_BATCH = 250  # images
WARM_UP = 50  # images, not counted
LEAST_TIMES = 6  # of fewer images each is timed several times: the median of fewer times has no 95 % interval
# Images timed with one model before the next takes its turn: long enough that a model finds its weights in the cache
# again, as it would in use, and short enough that a disturbance of the machine meets all of them.
TURN = 20

# x86 and Arm extensions that decide how fast, and how exactly, int8 is multiplied, as Linux names them.
INSTRUCTION_SETS = (
    "avx2",
    "avx512f",
    "avx512bw",
    "avx_vnni",
    "avx512_vnni",
    "amx_int8",
    "asimd",
    "asimddp",
    "i8mm",
    "sve",
)


def load(path: str | os.PathLike, threads: int) -> Model:
    """Return the model of an ONNX file, to be run on the CPU with `threads` threads.

    Raises UserError if there are fewer cores, or if the file is damaged.
    """
    return _model(_session(path, threads))


def load_classifier(path: str | os.PathLike, threads: int) -> tuple[Model, list[str]]:
    """Return the model of an ONNX file as `load` does, and the names of its classes in the order of its logits."""
    session = _session(path, threads)
    with reading(path):
        return _model(session), json.loads(session.get_modelmeta().custom_metadata_map["classes"])


def _session(path: str | os.PathLike, threads: int) -> onnxruntime.InferenceSession:
    if threads > (cores := os.cpu_count() or 1):
        raise UserError(f"evaluation.threads: {threads} asked for, but this machine has {cores} core(s); lower it")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    with reading(path):
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _model(session: onnxruntime.InferenceSession) -> Model:
    return lambda images: session.run(None, {"image": images})[0]


def predictions(model: Model, split: Split) -> numpy.ndarray:
    """Return the predicted class, int64 [n], of every image of the split."""
    parts = [
        model(split.images[start : start + EVALUATION_BATCH]).argmax(1)
        for start in range(0, len(split), EVALUATION_BATCH)
    ]
    predicted = numpy.concatenate(parts)
    assert len(predicted) == len(split), f"predicted {len(predicted)} of {len(split)} images"
    return predicted


def time_in_turns(
    models: Mapping[str, Callable[[numpy.ndarray], object]], images: numpy.ndarray
) -> dict[str, numpy.ndarray]:
    """Return, for each model, the nanoseconds, int64 [n], that a call on each single image took.

    images: uint8 [n, channels, height, width]. The models take turns of TURN images in one process, so that their
    times are paired: what slows the machine down slows all of them.
    """
    repeats = -(-LEAST_TIMES // len(images))
    singles = [numpy.ascontiguousarray(image[None]) for image in images] * repeats
    times = {name: numpy.empty(len(singles), numpy.int64) for name in models}
    for model in models.values():
        for image in (singles * (1 + WARM_UP // len(singles)))[:WARM_UP]:
            model(image)
    for start in range(0, len(singles), TURN):
        for name, model in models.items():
            for index in range(start, min(start + TURN, len(singles))):
                before = time.perf_counter_ns()
                model(singles[index])
                times[name][index] = time.perf_counter_ns() - before
    return times


def machine(cpuinfo: str | os.PathLike = "/proc/cpuinfo") -> dict[str, str]:
    """Return the CPU's model name and those of its instruction sets that matter for int8.

    Read from the kernel in a millisecond (py-cpuinfo takes 1.2 s, with nothing else running on the machine); where
    there is no such file, Python's names for processor and architecture stand in.
    """
    known: dict[str, str] = {}
    if os.path.exists(cpuinfo):
        with open(cpuinfo) as file:
            for line in file:
                key, _, value = line.partition(":")
                known.setdefault(key.strip(), value.strip())
    flags = (known.get("flags") or known.get("Features") or "").split()
    return {
        "cpu": known.get("model name") or platform.processor() or platform.machine(),
        "instruction_set": " ".join(name for name in INSTRUCTION_SETS if name in flags) or platform.machine(),
    }
