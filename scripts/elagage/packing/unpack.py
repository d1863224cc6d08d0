"""Unpack an ONNX file: python unpack.py model.onnx.packed model.onnx

This file is enough, with Python 3.10 or newer and NumPy. docs/packed_format.md describes what it reads.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import io
import lzma
import os
import pathlib
import struct
import sys
from collections.abc import Iterator, Sequence

import numpy

MAGIC = b"ONNXPACK"
VERSION = 6
# Version, SHA-256 and bytes of the ONNX file, filter (as .xz files number it), bytes of its dictionary.
HEADER = struct.Struct("<H32sQBI")
STREAM = struct.Struct("<II")  # bytes, bytes as compressed; an ONNX file has less than 2 GiB
LZMA2 = 0x21
DICTIONARIES = range(1 << 12, (1 << 24) + 1)  # LZMA allocates so many bytes before it reads anything
WIDTHS = (1, 2, 4, 8)  # bytes of a value
ALL, MASK, GAPS = range(3)  # which values are stored: all, those that a mask marks, those between gaps of zeros
LONGEST_GAP = 255
VALUES_PER_GAP = 7  # at least, where values are stored as GAPS
# Bytes of the largest ONNX file that is taken out of so many bytes, for what a forged file may claim. Weights of which
# one in 1000 is not 0 shrink about 800 times.
EXPANSION, SMALL = 4096, 64 << 20
MOST_TENSORS = 1 << 14  # large models have some thousands


class PackingError(ValueError):
    """A file that cannot be packed or unpacked. The message says what to do; whoever catches it names the file."""


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
        """The byte after the tensor's last one."""
        return self.start + self.values * self.width


def unpack(packed: bytes) -> bytes:
    """Return the ONNX file that a packed file holds.

    Raises PackingError if it is damaged, cut short, forged, of another version or something else. No code in it is
    run, and what it claims to hold is at most EXPANSION times its own size, or SMALL.
    """
    body = checked(packed)
    try:
        reader = Reader(body, largest(packed))
        model = b"".join(_pieces(reader))
        if hashlib.sha256(model).digest() != reader.checksum:
            raise ValueError("what comes out has another checksum than what went in")
    except (ValueError, IndexError, lzma.LZMAError) as error:
        raise PackingError(f"undamaged, but cannot be unpacked ({error}); get it from somebody you trust") from error
    return model


def checked(packed: bytes) -> bytes:
    """Return what follows the checksum of a packed file; raises PackingError if it is no such file of this version."""
    if not packed.startswith(MAGIC):
        raise PackingError("not a packed ONNX file; name one that ends in .onnx.packed")
    checksum, body = packed[len(MAGIC) :][:32], packed[len(MAGIC) + 32 :]
    if hashlib.sha256(body).digest() != checksum:
        raise PackingError("damaged or cut short; copy it again from where it came, or pack the ONNX file again")
    version = int.from_bytes(body[:2], "little")
    if version != VERSION:
        raise PackingError(
            f"packed in version {version} of the format; this Elagage knows only version {VERSION}; unpack it with "
            f"the Elagage that packed it"
        )
    return body


def largest(packed: bytes) -> int:
    """Return the bytes of the largest ONNX file that is taken out of a packed one."""
    return max(SMALL, EXPANSION * len(packed))


class Reader:
    """The header, then the streams, of what follows the checksum of a packed file.

    Every method raises ValueError or lzma.LZMAError for bytes that `pack` does not write.
    """

    def __init__(self, body: bytes, largest: int):
        self._file = io.BytesIO(body)
        _, self.checksum, self.size, compression, dictionary = HEADER.unpack(self.take(HEADER.size))
        if self.size > largest:
            raise ValueError(f"{self.size} bytes announced")
        if compression != LZMA2 or dictionary not in DICTIONARIES:
            raise ValueError(f"filter {compression:#x} with a dictionary of {dictionary} bytes")
        self._filters = [{"id": lzma.FILTER_LZMA2, "dict_size": dictionary}]

    def take(self, size: int) -> bytes:
        """Return the bytes that come next."""
        content = self._file.read(size)
        if len(content) != size:
            raise ValueError(f"{size} bytes announced, {len(content)} there")
        return content

    def stream(self, least: int, most: int) -> bytes:
        """Return the content of the stream that comes next, `least` to `most` bytes."""
        size, compressed = STREAM.unpack(self.take(STREAM.size))
        if not least <= size <= most:
            raise ValueError(f"a stream of {size} bytes where {least} to {most} belong")
        # Raw, because the headers of LZMA's own formats ask for memory.
        decompressor = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=self._filters)
        content = decompressor.decompress(self.take(compressed), size + 1)
        if len(content) != size or not decompressor.eof or decompressor.unused_data:
            raise ValueError(f"a stream of {size} bytes has another size")
        return content

    def skip(self) -> int:
        """Pass over the stream that comes next, and return its bytes."""
        _, compressed = STREAM.unpack(self.take(STREAM.size))
        return STREAM.size + len(self.take(compressed))

    def end(self) -> None:
        """Raise ValueError if anything comes next."""
        if self._file.read(1):
            raise ValueError("more bytes than streams")

    def frame(self) -> tuple[list[Tensor], bytes]:
        """Return the tensors, and the ONNX file without them."""
        frame = self.stream(4, self.size + 4 + 16 * MOST_TENSORS)
        count = int.from_bytes(frame[:4], "little")
        if count > MOST_TENSORS:
            raise ValueError(f"{count} tensors announced")
        tensors, start = [], 0
        for gap, values, width, weight in numpy.frombuffer(frame, "<u4", 4 * count, 4).reshape(4, count).T.tolist():
            if width not in WIDTHS:
                raise ValueError(f"values of {width} bytes")
            tensors.append(Tensor(start + gap, values, width, bool(weight)))
            start = tensors[-1].end
        kept = frame[4 + 16 * count :]
        if len(kept) + sum(tensor.end - tensor.start for tensor in tensors) != self.size:
            raise ValueError(f"{self.size} bytes announced, others described")
        return tensors, kept

    def values(self, count: int, width: int) -> numpy.ndarray:
        """Return the values of the group that comes next, unsigned integers [count] of `width` bytes."""
        (places,) = self.take(1)
        if places == ALL:
            where, stored = slice(None), count
        elif places == MASK:
            size = -(-count // 8)
            where = numpy.unpackbits(numpy.frombuffer(self.stream(size, size), numpy.uint8), count=count).view(bool)
            stored = numpy.count_nonzero(where)
        elif places == GAPS:
            gaps = numpy.frombuffer(self.stream(0, count // VALUES_PER_GAP), numpy.uint8)
            values = gaps < LONGEST_GAP
            where = (numpy.add(gaps, values, dtype=numpy.int64).cumsum() - 1)[values]
            stored = len(where)
        else:
            raise ValueError(f"places of form {places}")
        columns = numpy.empty((stored, width), numpy.uint8)
        for byte in range(width):
            columns[:, byte] = numpy.frombuffer(self.stream(stored, stored), numpy.uint8)
        values = numpy.zeros(count, f"<u{width}")
        values[where] = columns.view(values.dtype)[:, 0]
        return values


def groups(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Return the tensors that share streams: of the narrowest values first, vectors before weights."""
    kinds = sorted({(tensor.width, tensor.weight) for tensor in tensors})
    return [[tensor for tensor in tensors if (tensor.width, tensor.weight) == kind] for kind in kinds]


def _pieces(reader: Reader) -> Iterator[bytes | memoryview]:
    """Yield the ONNX file piece by piece: what lies before each tensor, and the tensor."""
    tensors, kept = reader.frame()
    content = {}
    for group in groups(tensors):
        values = memoryview(reader.values(sum(tensor.values for tensor in group), group[0].width)).cast("B")
        position = 0
        for tensor in group:
            size = tensor.end - tensor.start
            content[tensor] = values[position : position + size]
            position += size
    reader.end()
    position = 0  # in what was kept
    end = 0  # in the ONNX file
    for tensor in tensors:
        gap = tensor.start - end
        yield kept[position : position + gap]
        yield content[tensor]
        position, end = position + gap, tensor.end
    yield kept[position:]


def unpack_file(packed: pathlib.Path, model: pathlib.Path, force: bool) -> None:
    """Write the ONNX file that a packed file holds, whole or not at all, in a folder that is made if need be.

    Raises PackingError, which names the file, also if `model` is there and not to be replaced.
    """
    if os.path.lexists(model) and not force:
        raise PackingError(f"{model}: is there already; name another file, or replace it with --force")
    try:
        content = unpack(packed.read_bytes())
    except PackingError as error:
        raise PackingError(f"{packed}: {error}") from error
    except MemoryError as error:
        raise PackingError(f"{packed}: needs more memory than there is to be unpacked") from error
    except OSError as error:
        raise PackingError(
            f"{packed}: cannot be read ({error.strerror}); name a file that ends in .onnx.packed"
        ) from error
    temporary = model.with_name(f".{model.name}.{os.getpid()}")
    try:
        model.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(model)
    except OSError as error:
        raise PackingError(
            f"{model}: cannot be written ({error.strerror}); make room or give permission, and run again"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Unpack an ONNX file, byte for byte as it was before packing.")
    parser.add_argument("packed", type=pathlib.Path, help="a file that Elagage packed: model.onnx.packed")
    parser.add_argument("model", type=pathlib.Path, help="the ONNX file to write")
    parser.add_argument("--force", action="store_true", help="replace the ONNX file if it is there")
    try:
        unpack_file(**vars(parser.parse_args()))
    except PackingError as error:
        sys.exit(f"error: {error}")
