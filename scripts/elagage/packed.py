"""The packed form of an ONNX file: `unpack` gives back the same bytes, for which it needs neither ONNX nor PyTorch.

    magic | SHA-256 of all that follows | header | frame | streams

The frame, compressed by LZMA, lists where tensors lay in the file and holds what is left of the file without them.
Tensors of the same width share their streams, weights apart from vectors: first a mask of the values that are not 0
(of all values, if these are bytes of which few are 0), eight bits in a byte, then, of those values, one stream for each
byte, the lowest first.
"""

import dataclasses
import functools
import hashlib
import importlib.metadata
import io
import lzma
import os
import pathlib
import struct
from collections.abc import Iterator, Sequence
from itertools import accumulate

import numpy

from elagage.entropy import entropy_bytes, split
from elagage.errors import UserError
from elagage.streams import BITS, BYTES, read, skip, take, written

MAGIC = b"ONNXPACK"
VERSION = 5
# Version, that of constriction as text, SHA-256 and bytes of the ONNX file, bytes of the compressed frame.
HEADER = struct.Struct("<H16s32sQQ")
MASKED = 15 / 16  # share of bytes other than 0 from which a mask is not worth its time
WIDTHS = (1, 2, 4, 8)  # bytes of a value
PIECE = 1 << 20  # values whose places among all are found at once
# Raw, because the headers of LZMA's own formats ask for memory. Preset 2 takes a seventh of the time of 6, which was a
# quarter of that of packing a ResNet-56, for 4 to 8 % more bytes of the frame; frames are some 10 kB. Without context
# (lc, pb) they are 2 % smaller.
FILTER = {"id": lzma.FILTER_LZMA2, "preset": 2, "dict_size": 1 << 16, "lc": 0, "pb": 0}
LZMA = {"format": lzma.FORMAT_RAW, "filters": [FILTER]}
# Bytes of the largest ONNX file that is taken out of so many bytes, for what a forged file may claim. Weights of which
# one in 1000 is not 0 shrink about 800 times.
EXPANSION, SMALL = 4096, 64 << 20
MOST_TENSORS = 1 << 14  # large models have some thousands; each takes 300 bytes of memory and up to 2 ms


@dataclasses.dataclass(frozen=True)
class Tensor:
    """Where a tensor lies in an ONNX file: `values` numbers of `width` bytes, little-endian, from byte `start` on.

    `weight` tells tensors of two dimensions or more from vectors (biases, scales), which hold other numbers.
    """

    start: int
    values: int
    width: int
    weight: bool

    @property
    def end(self) -> int:
        return self.start + self.values * self.width


def pack(model: bytes, tensors: Sequence[Tensor]) -> bytes:
    """Return the packed form of an ONNX file in which these tensors lie, in this order.

    Raises ValueError if `unpack` would take it for a forgery: nearly all weights are equal, or tensors are too many.
    """
    if len(tensors) > MOST_TENSORS:
        raise ValueError(f"{len(tensors)} tensors are more than the {MOST_TENSORS} that are unpacked")
    ends = [0, *(tensor.end for tensor in tensors)]
    starts = [*(tensor.start for tensor in tensors), len(model)]
    kept = b"".join(model[end:start] for end, start in zip(ends, starts, strict=True))
    frame = lzma.compress(_table(tensors) + kept, **LZMA)
    body = [
        HEADER.pack(VERSION, _constriction_version(), hashlib.sha256(model).digest(), len(model), len(frame)),
        frame,
    ]
    for group in _groups(tensors):
        values = numpy.frombuffer(b"".join(model[tensor.start : tensor.end] for tensor in group), f"<u{group[0].width}")
        mask, lengths = _worth_a_mask(values), _lengths(group)
        body.append(written(_mask_bytes(mask, lengths), _mask_lengths(lengths), BITS))
        ones = _count_ones(mask, lengths)
        for column in _columns(_where(mask, values)):
            body.append(written(column, ones, BYTES))
    content = b"".join(body)
    packed = MAGIC + hashlib.sha256(content).digest() + content
    if len(model) > _largest(packed):
        raise ValueError(
            f"{len(model)} bytes shrink to {len(packed)}, more than is unpacked: nearly all weights are equal"
        )
    return packed


def unpack(path: str | os.PathLike) -> bytes:
    """Return the ONNX file that a packed file holds.

    Raises UserError that names the file if it is damaged, cut short, forged, of a newer version or something else; no
    code in it is run, and what it claims to hold is at most EXPANSION times its own size, or SMALL.
    """
    packed = pathlib.Path(path).read_bytes()
    if not packed.startswith(MAGIC):
        raise UserError(f"{path}: not a packed ONNX file; name one that ends in .onnx.packed")
    checksum, body = packed[len(MAGIC) :][:32], packed[len(MAGIC) + 32 :]
    if hashlib.sha256(body).digest() != checksum or len(body) < HEADER.size:
        raise UserError(f"{path}: damaged or cut short; copy it again from where it came, or pack the ONNX file again")
    version, coder, checksum, _, _ = HEADER.unpack_from(body)
    if version != VERSION:
        raise UserError(
            f"{path}: packed in version {version} of the format, of which this Elagage knows {VERSION}; unpack it with "
            f"the Elagage that packed it"
        )
    try:
        model = b"".join(_pieces(body, _largest(packed)))
        if hashlib.sha256(model).digest() != checksum:
            raise ValueError("what comes out has another checksum than what went in")
    except MemoryError:
        raise
    except Exception as error:  # libraries raise of every kind for what they did not write
        raise UserError(
            f"{path}: arrived as it was written, but cannot be unpacked ({error}); get it from somebody you trust, or "
            f"use constriction {coder.rstrip(bytes(1)).decode(errors='replace')}, with which it was packed"
        ) from error
    return model


def packed_weight_bytes(path: str | os.PathLike) -> int:
    """Return how many bytes of a packed file that `unpack` accepts are weights.

    Those are their streams and the table of all tensors, which is counted as compressed by itself.
    """
    packed = pathlib.Path(path).read_bytes()
    file = io.BytesIO(packed[len(MAGIC) + 32 :])
    *_, frame = HEADER.unpack(take(file, HEADER.size))
    tensors, _ = _read_frame(take(file, frame), _largest(packed))
    total = len(lzma.compress(_table(tensors), **LZMA)) if any(tensor.weight for tensor in tensors) else 0
    for group in _groups(tensors):
        for _ in range(1 + group[0].width):
            total += skip(file) * group[0].weight
    return total


def bound_bytes(model: bytes, tensors: Sequence[Tensor]) -> float:
    """Return the sum of the order-0 entropies of tensors in an ONNX file, in bytes.

    Of each tensor: the entropy of the mask of its values that are not 0, bit by bit, and, of those values, the
    entropies of their first bytes, of their second bytes, and so on; frequencies are the tensor's own, and no table
    of them is counted.
    """
    total = 0.0
    for tensor in tensors:
        values = numpy.frombuffer(model, f"<u{tensor.width}", tensor.values, tensor.start)
        mask = values != 0
        columns = [mask.view(numpy.uint8), *_columns(values.compress(mask))]
        total += sum(entropy_bytes(column, [len(column)]) for column in columns)
    return total


@functools.cache
def _constriction_version() -> bytes:
    """Return the version of constriction; looking it up takes longer than to pack a small stream."""
    return importlib.metadata.version("constriction").encode()


def _table(tensors: Sequence[Tensor]) -> bytes:
    """Return their number and, for all of them, the bytes before each, the values, the widths, whether weights."""
    ends = [0, *(tensor.end for tensor in tensors)]
    rows = [(t.start - end, t.values, t.width, t.weight) for t, end in zip(tensors, ends, strict=False)]
    return struct.pack("<I", len(tensors)) + numpy.array(rows, "<u4").reshape(-1, 4).T.tobytes()


def _largest(packed: bytes) -> int:
    return max(SMALL, EXPANSION * len(packed))


def _groups(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    kinds = sorted({(tensor.width, tensor.weight) for tensor in tensors})
    return [[tensor for tensor in tensors if (tensor.width, tensor.weight) == kind] for kind in kinds]


def _lengths(group: Sequence[Tensor]) -> list[int]:
    """Return the lengths of the sequences that have frequencies of their own: vectors are too short for that."""
    lengths = [tensor.values for tensor in group]
    return lengths if group[0].weight else [sum(lengths)]


def _count_ones(mask: numpy.ndarray, lengths: Sequence[int]) -> list[int]:
    return [int(numpy.count_nonzero(part)) for part in split(mask, lengths)]


def _mask_lengths(lengths: Sequence[int]) -> list[int]:
    return [-(-length // 8) for length in lengths]


def _mask_bytes(mask: numpy.ndarray, lengths: Sequence[int]) -> numpy.ndarray:
    """Return the bits of each sequence from a byte of its own on; its last bit fills up its last byte."""
    parts = [numpy.packbits(part) for part in split(mask, lengths)]
    for part, length, end in zip(parts, lengths, accumulate(lengths), strict=True):
        if length % 8 and mask[end - 1]:
            part[-1] |= 0xFF >> length % 8
    return numpy.concatenate(parts)


def _mask_of(symbols: numpy.ndarray, lengths: Sequence[int]) -> numpy.ndarray:
    """Return the mask, bool [sum of lengths], that _mask_bytes was given."""
    parts = zip(split(symbols, _mask_lengths(lengths)), lengths, strict=True)
    return numpy.concatenate([numpy.unpackbits(part, count=length) for part, length in parts]).view(bool)


def _worth_a_mask(values: numpy.ndarray) -> numpy.ndarray:
    """Return which values are stored, bool [n]: those that are not 0; or all, if these are bytes of which few are 0.

    A mask makes single bytes no smaller, by the chain rule of entropy, but twice as slow to unpack. Of wider values
    each byte would pay for the zeros: float32 of which 6 % are 0 would be 3.7 % larger.
    """
    mask = values != 0
    few_zeros = numpy.count_nonzero(mask) >= MASKED * len(mask)
    return numpy.ones_like(mask) if values.itemsize == 1 and few_zeros else mask


def _where(mask: numpy.ndarray, values: numpy.ndarray) -> numpy.ndarray:
    """Return values[mask], in a fifth of the time; piece by piece, for it takes 8 bytes a value meanwhile."""
    pieces = (slice(start, start + PIECE) for start in range(0, len(values), PIECE))
    return numpy.concatenate([values[:0], *(values[piece].compress(mask[piece]) for piece in pieces)])


def _put(values: numpy.ndarray, mask: numpy.ndarray, stored: numpy.ndarray) -> None:
    """Let values[mask] = stored, likewise."""
    position = 0
    for start in range(0, len(values), PIECE):
        places = numpy.flatnonzero(mask[start : start + PIECE])
        values[start : start + PIECE][places] = stored[position : position + len(places)]
        position += len(places)


def _columns(values: numpy.ndarray) -> Iterator[numpy.ndarray]:
    """Yield the lowest byte of all values, unsigned [n], then the next one, and so on."""
    columns = values.view(numpy.uint8).reshape(-1, values.itemsize)
    for byte in range(values.itemsize):
        yield numpy.ascontiguousarray(columns[:, byte])


def _read_frame(compressed: bytes, largest: int) -> tuple[list[Tensor], bytes]:
    """Return the tensors, and the ONNX file without them."""
    decompressor = lzma.LZMADecompressor(**LZMA)
    frame = decompressor.decompress(compressed, max_length=largest)
    (count,) = struct.unpack_from("<I", frame)
    if count > MOST_TENSORS:
        raise ValueError(f"{count} tensors announced")
    table = numpy.frombuffer(frame, "<u4", 4 * count, 4).reshape(4, count).T.tolist()
    tensors, start = [], 0
    for gap, values, width, weight in table:
        if width not in WIDTHS:
            raise ValueError(f"values of {width} bytes")
        tensors.append(Tensor(start + gap, values, width, bool(weight)))
        start = tensors[-1].end
    return tensors, frame[4 + 16 * count :]


def _pieces(body: bytes, largest: int) -> Iterator[bytes]:
    """Yield the ONNX file piece by piece: what lies before each tensor, and the tensor."""
    file = io.BytesIO(body)
    *_, size, frame = HEADER.unpack(take(file, HEADER.size))
    tensors, kept = _read_frame(take(file, frame), largest)
    if size > largest or len(kept) + sum(tensor.end - tensor.start for tensor in tensors) != size:
        raise ValueError(f"{size} bytes announced")
    content = {}
    for group in _groups(tensors):
        lengths = _lengths(group)
        mask = _mask_of(read(file, _mask_lengths(lengths), BITS), lengths)
        ones = _count_ones(mask, lengths)
        columns = numpy.empty((sum(ones), group[0].width), numpy.uint8)
        for byte in range(group[0].width):
            columns[:, byte] = read(file, ones, BYTES)
        values = numpy.zeros(len(mask), f"<u{group[0].width}")
        _put(values, mask, columns.view(values.dtype)[:, 0])
        parts = split(values, [tensor.values for tensor in group])
        content |= {tensor: part.tobytes() for tensor, part in zip(group, parts, strict=True)}
    position = 0  # in what was kept
    end = 0  # in the ONNX file
    for tensor in tensors:
        gap = tensor.start - end
        yield kept[position : position + gap]
        yield content[tensor]
        position, end = position + gap, tensor.end
    yield kept[position:]
