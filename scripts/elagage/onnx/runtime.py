"""ONNX files in ONNX Runtime on the CPU: loaded, and run on images; and the CPU itself."""

import json
import os
import platform

import numpy
import onnxruntime

from elagage.data import Split
from elagage.errors import UserError
from elagage.files import reading
from elagage.logits import SUMS_DIFFER, logits_difference

RUNTIME = {"onnxruntime": onnxruntime.__version__}  # what measurements say they were made with
# Images of up to 64 x 64 pixels, fewer larger ones; what a layer makes of more leaves the caches. Images a second on
# one core, 1 / 32 / 64 / 250 at once: ResNet-20, 32 x 32 pixels: 1313 / 1383 / 1383 / 1307; ResNet-8, 8 x 8 pixels:
# 34 / 65 / 67 / 69 thousand.
EVALUATION_BATCH = 64
EVALUATION_PIXELS = EVALUATION_BATCH * 64**2
COMPARED = 16  # images that are predicted both in a batch and alone

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


class Model:
    """A network in ONNX Runtime: called with uint8 images [n, channels, height, width], it returns float32 logits."""

    def __init__(self, session: onnxruntime.InferenceSession):
        self._session = session

    def __call__(self, images: numpy.ndarray) -> numpy.ndarray:
        """Return the logits, float32 [n, classes]."""
        return self._session.run(None, {"image": images})[0]

    @property
    def classes(self) -> list[str]:
        """The names of the classes, in the order of the logits, as the file's metadata has them."""
        return json.loads(self._session.get_modelmeta().custom_metadata_map["classes"])


def load(path: str | os.PathLike, threads: int) -> Model:
    """Return the model of an ONNX file, to be run on the CPU with `threads` threads.

    Raises UserError if there are fewer cores, or if the file is damaged.
    """
    if threads > (cores := os.cpu_count() or 1):
        raise UserError(f"evaluation.threads: {threads} asked for, but this machine has {cores} core(s); lower it")
    with reading(path):
        return Model(session(path, threads))


def session(model: str | os.PathLike | bytes, threads: int) -> onnxruntime.InferenceSession:
    """Return a session of an ONNX file, or of its content, on the CPU with `threads` threads, not one for each core."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def predictions(model: Model, split: Split) -> numpy.ndarray:
    """Return the predicted class, int64 [n], of every image of the split, as it is predicted alone.

    The first images tell whether batches give the same logits. They do not where activations are quantized by ranges
    of the whole batch (modes `dynamic` and `dynamic_conv`); there, each image is predicted by itself.
    """
    most = max(1, min(EVALUATION_BATCH, EVALUATION_PIXELS // (split.images.shape[-1] * split.images.shape[-2])))
    together = model(split.images[:most])[:COMPARED]
    alone = numpy.concatenate([model(image[None]) for image in split.images[: len(together)]])
    batch = most if logits_difference(together, alone) <= SUMS_DIFFER else 1
    parts = [model(split.images[start : start + batch]).argmax(1) for start in range(0, len(split), batch)]
    predicted = numpy.concatenate(parts)
    assert len(predicted) == len(split), f"predicted {len(predicted)} of {len(split)} images"
    return predicted


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
