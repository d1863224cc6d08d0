"""Where the tensors of an ONNX file lie in it."""

import math

import onnx

from elagage.packing.unpack import WIDTHS, Tensor

SMALLEST_TENSOR = 16  # bytes; a smaller one costs less among the names than in a list


def initializers(content: bytes) -> list[Tensor]:
    """Return where the initializers of the main graph, of 16 bytes or more, lie in an ONNX file.

    Those that are not raw little-endian bytes in the file (float_data, strings, external data) are left out, and so
    are constants of nodes.
    """
    model = onnx.load_model_from_string(content)
    tensors, position = [], 0
    for tensor in model.graph.initializer:
        raw = tensor.raw_data
        if len(raw) < SMALLEST_TENSOR:
            continue
        # The same bytes may lie elsewhere before: as good a place as any, for they are put back where they were.
        position = content.index(raw[:SMALLEST_TENSOR], position)
        if not content.startswith(raw, position):  # rare: searching for all of it takes up to eight times as long
            position = content.index(raw, position)
        width = len(raw) / max(1, math.prod(tensor.dims))
        width = int(width) if width in WIDTHS else 1  # such as 4-bit integers, two in a byte
        tensors.append(Tensor(position, len(raw) // width, width, len(tensor.dims) > 1))
        position = tensors[-1].end
    return tensors
