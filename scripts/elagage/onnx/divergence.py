"""How much a file changes the answers of a network: the divergence of its class probabilities.

Labels have no part in it: clipping makes networks that are too sure of themselves less so, which lowers their
cross-entropy while more answers change.
"""

from collections.abc import Callable

import numpy
import onnx
import onnxruntime

from elagage.errors import RefusedError
from elagage.onnx.runtime import Model, session

BATCH = 8  # images that are classified at once
USUAL_PIXELS = 64**2  # of an image; of larger ones fewer are taken

Load = Callable[[bytes, int], onnxruntime.InferenceSession]  # the content of an ONNX file, threads


class Answers:
    """The answers of a float32 network on images, with which those of other files of it are compared.

    images: uint8 [n, channels, height, width]; session: what loads files. Raises RefusedError if the network answers
    with what is no number.
    """

    def __init__(self, float32: onnx.ModelProto, images: numpy.ndarray, threads: int, session: Load = session):
        self.images, self._threads, self._session = images, threads, session
        self._expected = self._log_probabilities(float32)
        if not numpy.isfinite(self._expected).all():
            raise RefusedError("the float32 network's logits are not finite on some validation images")
        self.classes = self._expected.argmax(1)  # int64 [n], of the float32 network

    def compare(self, model: onnx.ModelProto) -> tuple[float, numpy.ndarray]:
        """Return the divergence of Kullback and Leibler from the float32 network, and the classes that a model answers.

        In nats, the mean over the images, with two digits, for the others are those of the machine; int64 [n].
        """
        found = self._log_probabilities(model)
        divergence = (numpy.exp(self._expected) * (self._expected - found)).sum(1).mean()
        return float(f"{divergence:.2g}"), found.argmax(1)

    def _log_probabilities(self, model: onnx.ModelProto) -> numpy.ndarray:
        """Return the logarithms of the class probabilities, float64 [n, classes]."""
        running = Model(self._session(model.SerializeToString(), self._threads))
        parts = [running(self.images[start : start + BATCH]) for start in range(0, len(self.images), BATCH)]
        logits = numpy.concatenate(parts).astype(float)
        logits -= logits.max(1, keepdims=True)
        return logits - numpy.log(numpy.exp(logits).sum(1, keepdims=True))


def first_images(images: numpy.ndarray, most: int, fewest: int) -> numpy.ndarray:
    """Return the first images: at most `most` of up to 64 x 64 pixels, of larger ones fewer, but `fewest`."""
    height, width = images.shape[-2:]
    return images[: min(most, max(fewest, most * USUAL_PIXELS // (height * width)))]
