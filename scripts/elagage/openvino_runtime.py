"""ONNX files in OpenVINO on the CPU: loaded, and run on images."""

import contextlib
import os
from collections.abc import Iterator

import numpy
import openvino

from elagage.errors import RefusedError
from elagage.files import reading

OPENVINO = {"openvino": openvino.__version__.partition("-")[0]}  # what measurements say they were made with
INTERNAL = ("Exception from", "Check ")  # how lines of its errors begin that name its own source files


class OpenVinoModel:
    """A network in OpenVINO: called with uint8 images [n, channels, height, width], it returns float32 logits."""

    def __init__(self, path: str | os.PathLike, compiled: openvino.CompiledModel):
        self._path, self._request = path, compiled.create_infer_request()

    def __call__(self, images: numpy.ndarray) -> numpy.ndarray:
        """Return the logits, float32 [n, classes]; raises RefusedError if OpenVINO fails."""
        with _refusing(self._path):
            self._request.infer([images], share_inputs=True)
            return self._request.get_output_tensor().data.copy()


def load(path: str | os.PathLike, threads: int) -> OpenVinoModel:
    """Return the model of an ONNX file, to be run on the CPU with `threads` threads, one image after the other.

    In float32 where the file is: on CPUs that compute with bfloat16, OpenVINO would take that unless it is told
    (https://docs.openvino.ai, "Precision Control"). Raises RefusedError if OpenVINO cannot run the file.
    """
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    with reading(path), _refusing(path):
        return OpenVinoModel(path, openvino.Core().compile_model(os.fspath(path), "CPU", settings))


@contextlib.contextmanager
def _refusing(path: str | os.PathLike) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        told = [line for line in str(error).splitlines() if line.strip() and not line.startswith(INTERNAL)]
        raise RefusedError(f"OpenVINO {OPENVINO['openvino']} cannot run {path}: {' '.join(told)}") from error
