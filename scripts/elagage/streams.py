"""Streams of a packed file: symbols <-> a Zstandard frame, or entropy-coded where that is worth its time.

form | bytes | content
"""

import functools
import struct
from collections.abc import Callable
from typing import BinaryIO, NamedTuple

import numpy
import zstandard

from elagage.entropy import decode_bits, decode_bytes, encode_bits, encode_bytes, entropy_bytes

STREAM = struct.Struct("<BQ")  # form, bytes
ZSTD, CODED = range(2)  # forms
# Bytes above its entropy that a symbol may take as Zstandard, which decodes it in 30 ns less, and the share of all that
# they may be, besides what a frame of equal symbols takes.
QUICK, QUICK_SHARE, LEAST_FRAME = 1 / 64, 1 / 24, 64
# Symbols up to which a stream is left to Zstandard: it takes 20 to 250 bytes more, and not the time of models.
SHORT = 2048


class Coder(NamedTuple):
    """An entropy coder of sequences that lie end to end, uint8 [sum of lengths] <-> bytes.

    A sequence takes the time of `overhead` symbols for its models.
    """

    encode: Callable[[numpy.ndarray, list[int]], bytes]
    decode: Callable[[bytes, list[int]], numpy.ndarray]
    overhead: int


BITS = Coder(encode_bits, decode_bits, 0)
BYTES = Coder(encode_bytes, decode_bytes, 4096)


def written(symbols: numpy.ndarray, lengths: list[int], coder: Coder) -> bytes:
    """Return the stream of these symbols, uint8 [sum of lengths]: sequences that lie end to end."""
    quick = _compressor().compress(symbols)
    if len(symbols) > SHORT and not _near_entropy(len(quick), symbols, lengths, coder):
        coded = coder.encode(symbols, lengths)
        if len(coded) < len(quick):
            return STREAM.pack(CODED, len(coded)) + coded
    return STREAM.pack(ZSTD, len(quick)) + quick


def read(file: BinaryIO, lengths: list[int], coder: Coder) -> numpy.ndarray:
    """Return the symbols of the stream that comes next, uint8 [sum of lengths].

    Raises ValueError, or what zstandard and constriction raise, for bytes that `written` has not made.
    """
    form, content = _next(file)
    if form == CODED:
        return coder.decode(content, lengths)
    if form != ZSTD:
        raise ValueError(f"a stream of form {form}")
    if (announced := zstandard.frame_content_size(content)) != sum(lengths):
        raise ValueError(f"a stream of {sum(lengths)} bytes has {announced}")
    return numpy.frombuffer(_decompressor().decompress(content, allow_extra_data=False), numpy.uint8)


def skip(file: BinaryIO) -> int:
    """Pass over the stream that comes next, and return its bytes."""
    return STREAM.size + len(_next(file)[1])


def take(file: BinaryIO, size: int) -> bytes:
    """Return the bytes that come next; raises ValueError if they are fewer."""
    content = file.read(size)
    if len(content) != size:
        raise ValueError(f"{size} bytes announced, {len(content)} there")
    return content


def _next(file: BinaryIO) -> tuple[int, bytes]:
    form, size = STREAM.unpack(take(file, STREAM.size))
    return form, take(file, size)


@functools.cache
def _compressor() -> zstandard.ZstdCompressor:
    """Return a compressor, made once: that takes longer than to compress a small stream."""
    return zstandard.ZstdCompressor(level=1)


@functools.cache
def _decompressor() -> zstandard.ZstdDecompressor:
    return zstandard.ZstdDecompressor()


def _near_entropy(size: int, symbols: numpy.ndarray, lengths: list[int], coder: Coder) -> bool:
    """Return whether so many bytes are hardly more than the entropies of the sequences."""
    entropy, time = entropy_bytes(symbols, lengths), len(symbols) + coder.overhead * len(lengths)
    return size <= entropy + min(QUICK * time, LEAST_FRAME + QUICK_SHARE * entropy)
