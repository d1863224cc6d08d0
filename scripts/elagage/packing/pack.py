"""ONNX file -> packed file, which unpack.py turns back. docs/packed_format.md describes the format and its choices."""

import hashlib
import lzma
import struct
from collections.abc import Iterator, Sequence

import numpy

from elagage.packing.unpack import (
    ALL,
    GAPS,
    HEADER,
    LONGEST_GAP,
    LZMA2,
    MAGIC,
    MASK,
    MOST_TENSORS,
    STREAM,
    VERSION,
    PackingError,
    Reader,
    Tensor,
    checked,
    groups,
    largest,
)

FEW_ZEROS = 1 / 16  # share of zeros among bytes below which a mask takes more than it saves
FEW_VALUES = 1 / 8  # share of values other than 0 below which gaps are smaller than a mask
DICTIONARY = 1 << 16
# Weights repeat nothing, so a long search for matches would only take time: preset 6 packs at less than half the speed.
FILTER = {
    **{"id": lzma.FILTER_LZMA2, "dict_size": DICTIONARY, "lc": 0, "lp": 0, "pb": 0},
    **{"mode": lzma.MODE_NORMAL, "mf": lzma.MF_BT2, "nice_len": 273, "depth": 1},
}


def pack(model: bytes, tensors: Sequence[Tensor]) -> bytes:
    """Return the packed form of an ONNX file in which these tensors lie, in this order, none inside another.

    Raises PackingError if `unpack` would refuse it as forged: nearly all weights are equal, or tensors are too many.
    """
    if len(tensors) > MOST_TENSORS:
        raise PackingError(
            f"cannot be packed: its {len(tensors)} tensors are more than the {MOST_TENSORS} that are unpacked; "
            f"keep the ONNX file"
        )
    ends = [0, *(tensor.end for tensor in tensors)]
    starts = [*(tensor.start for tensor in tensors), len(model)]
    kept = b"".join(model[end:start] for end, start in zip(ends, starts, strict=True))
    body = [
        HEADER.pack(VERSION, hashlib.sha256(model).digest(), len(model), LZMA2, DICTIONARY),
        _stream(_table(tensors) + kept),
    ]
    for group in groups(tensors):
        body += _packed_values(numpy.concatenate([_values(model, tensor) for tensor in group]))
    content = b"".join(body)
    packed = MAGIC + hashlib.sha256(content).digest() + content
    if len(model) > largest(packed):
        raise PackingError(
            f"cannot be packed: {len(model)} bytes shrink to {len(packed)}, more than is unpacked, because nearly all "
            f"weights are equal; leave out the highest of pruning.rates"
        )
    return packed


def packed_weight_bytes(packed: bytes) -> int:
    """Return how many bytes of a packed file are the streams of weights.

    Raises ValueError (PackingError, if it is no packed file of this version) or lzma.LZMAError for what `unpack` would
    refuse before it comes to values.
    """
    reader = Reader(checked(packed), largest(packed))
    tensors, _ = reader.frame()
    total = 0
    for group in groups(tensors):
        (places,) = reader.take(1)
        streams = group[0].width + (places != ALL)
        total += sum(reader.skip() for _ in range(streams)) * group[0].weight
    return total


def entropy_bytes(model: bytes, tensors: Sequence[Tensor]) -> float:
    """Return the sum of the order-0 entropies of tensors in an ONNX file, in bytes.

    Of each tensor: the entropy of the mask of its values that are not 0, bit by bit, and, of those values, the
    entropies of their first bytes, of their second bytes, and so on. Frequencies are the tensor's own, and no table of
    them is counted. A packed file may take less, because LZMA also finds repetitions.
    """
    total = 0.0
    for tensor in tensors:
        values = _values(model, tensor)
        mask = values != 0
        total += sum(map(_order_0_entropy, (mask.view(numpy.uint8), *_columns(values[mask]))))
    return total


def _order_0_entropy(symbols: numpy.ndarray) -> float:
    """Return -sum of log2(frequency of each symbol) / 8 of bytes, uint8 [n]."""
    counts = numpy.bincount(symbols, minlength=256)
    return float(len(symbols) * numpy.log2(max(len(symbols), 1)) - counts @ numpy.log2(numpy.maximum(counts, 1))) / 8


def _table(tensors: Sequence[Tensor]) -> bytes:
    """Return their number and, for all of them, the bytes before each, the values, the widths, whether weights."""
    ends = [0, *(tensor.end for tensor in tensors)]
    rows = [(t.start - end, t.values, t.width, t.weight) for t, end in zip(tensors, ends, strict=False)]
    return struct.pack("<I", len(tensors)) + numpy.array(rows, "<u4").reshape(-1, 4).T.tobytes()


def _values(model: bytes, tensor: Tensor) -> numpy.ndarray:
    return numpy.frombuffer(model, f"<u{tensor.width}", tensor.values, tensor.start)


def _packed_values(values: numpy.ndarray) -> Iterator[bytes]:
    """Yield the form of the places of the stored values, these places, and the lowest byte of each, the next, ..."""
    mask = values != 0
    stored = numpy.count_nonzero(mask)
    if values.itemsize == 1 and len(mask) - stored <= FEW_ZEROS * len(mask):
        yield bytes([ALL])
        mask[:] = True
    elif stored < FEW_VALUES * len(mask):
        yield bytes([GAPS]) + _stream(_gaps(mask))
    else:
        yield bytes([MASK]) + _stream(numpy.packbits(mask))
    for column in _columns(values[mask]):
        yield _stream(column)


def _gaps(mask: numpy.ndarray) -> numpy.ndarray:
    """Return the number of zeros before each stored value, uint8: first LONGEST_GAP for each so many, then the rest."""
    zeros = numpy.diff(numpy.flatnonzero(mask), prepend=-1) - 1
    long, rest = numpy.divmod(zeros, LONGEST_GAP)
    gaps = numpy.full(len(zeros) + long.sum(), LONGEST_GAP, numpy.uint8)
    gaps[(long + 1).cumsum() - 1] = rest
    return gaps


def _columns(values: numpy.ndarray) -> Iterator[numpy.ndarray]:
    """Yield the lowest byte of all values, uint8 [n], then the next one, and so on."""
    columns = values.view(numpy.uint8).reshape(-1, values.itemsize)
    for byte in range(values.itemsize):
        yield numpy.ascontiguousarray(columns[:, byte])


def _stream(content: bytes | numpy.ndarray) -> bytes:
    compressed = lzma.compress(content, lzma.FORMAT_RAW, filters=[FILTER])
    return STREAM.pack(len(content), len(compressed)) + compressed
