"""Where the tensors of an ONNX file lie in it."""

import math

import onnx

from elagage.packing.unpack import WIDTHS, Tensor

SMALLEST = 16  # bytes of a tensor; those of smaller ones cost less among the names


def initializers(content: bytes) -> list[Tensor]:
    """Return where the initializers of the main graph lie in an ONNX file, those of 16 bytes and more.

    Those that are not raw little-endian bytes in the file (float_data, strings, external data) are left out, and so
    are constants of nodes.
    """
    model = onnx.load_model_from_string(content)
    found, position = [], 0
    for tensor in model.graph.initializer:
        raw = tensor.raw_data
        if len(raw) < SMALLEST:
            continue
        # The same bytes may lie elsewhere before: as good a place as any, for they are put back where they were.
        position = content.index(raw[:SMALLEST], position)
        if not content.startswith(raw, position):  # seldom: to search all of it takes up to eight times as long
            position = content.index(raw, position)
        width = len(raw) / max(1, math.prod(tensor.dims))
        width = int(width) if width in WIDTHS else 1  # such as 4-bit integers, two in a byte
        found.append(Tensor(position, len(raw) // width, width, len(tensor.dims) > 1))
        position = found[-1].end
    return found
