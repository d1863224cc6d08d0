"""Symbols <-> bytes at the cost of their order-0 entropy, sequence by sequence, without stored frequency tables."""

from collections.abc import Iterator

import constriction
import numpy

# Symbols of the first block of a sequence; each block has twice as many as the one before, up to the last, so that a
# model is renewed often while it knows little and seldom while decoding is limited by the speed of the coder.
FIRST_BLOCK, LAST_BLOCK = 64, 65536


class _Counts:
    """Frequencies of the symbols so far: those of a new sequence start at those of all before it.

    All arithmetic is IEEE 754 on exact integers in one order, so that other machines count the same.
    """

    def __init__(self, alphabet: int):
        self.alphabet = alphabet
        self.all = numpy.ones(alphabet)

    def start_sequence(self) -> None:
        """Weigh all earlier sequences like one symbol for each of the alphabet; no symbol is ever impossible."""
        self.sequence = self.alphabet * self.all / self.all.sum() + 0.02

    def add(self, symbols: numpy.ndarray) -> None:
        counts = numpy.bincount(symbols, minlength=self.alphabet) if self.alphabet > 2 else _zeros_and_ones(symbols)
        self.sequence += counts
        self.all += counts

    def model(self) -> constriction.stream.model.Categorical:
        return constriction.stream.model.Categorical(self.sequence.astype(numpy.float32), perfect=False)


def _zeros_and_ones(bits: numpy.ndarray) -> numpy.ndarray:
    ones = numpy.count_nonzero(bits)  # ten times as fast as bincount, which copies to 64-bit integers
    return numpy.array([len(bits) - ones, ones])


def _blocks(lengths: list[int]) -> Iterator[tuple[bool, int, int]]:
    """Yield (whether a sequence starts here, first symbol, symbol after the last) for each block of all sequences."""
    start = 0
    for length in lengths:
        end, size = start + length, FIRST_BLOCK
        first = True
        while start < end:
            stop = min(start + size, end)
            yield first, start, stop
            first, start, size = False, stop, min(2 * size, LAST_BLOCK)


def encode(symbols: numpy.ndarray, lengths: list[int], alphabet: int) -> bytes:
    """Return the entropy-coded symbols, uint8 [sum of lengths] below `alphabet`: sequences that lie end to end.

    Each block is coded with the frequencies of what came before it, by asymmetric numeral systems (Duda 2013,
    https://arxiv.org/abs/1311.2540), whose decoder takes first what was encoded last.
    """
    counts, coded = _Counts(alphabet), []
    for first, start, stop in _blocks(lengths):
        if first:
            counts.start_sequence()
        coded.append((symbols[start:stop], counts.model()))
        counts.add(symbols[start:stop])
    coder = constriction.stream.stack.AnsCoder()
    for block, model in reversed(coded):
        coder.encode_reverse(block.astype(numpy.int32), model)
    return coder.get_compressed().astype("<u4").tobytes()


def decode(coded: bytes, lengths: list[int], alphabet: int) -> numpy.ndarray:
    """Return the symbols, uint8 [sum of lengths], that `encode` was given with the same lengths and alphabet.

    Other bytes than those give other symbols; raises ValueError if they cannot come from `encode`.
    """
    coder = constriction.stream.stack.AnsCoder(numpy.frombuffer(coded, "<u4").astype(numpy.uint32))
    counts, symbols = _Counts(alphabet), numpy.empty(sum(lengths), numpy.uint8)
    for first, start, stop in _blocks(lengths):
        if first:
            counts.start_sequence()
        symbols[start:stop] = coder.decode(counts.model(), stop - start)
        counts.add(symbols[start:stop])
    return symbols


def entropy_bytes(symbols: numpy.ndarray) -> float:
    """Return the order-0 entropy of all symbols (uint8) together, in bytes: -sum of log2(frequency) / 8.

    It counts no table of the frequencies, which are those of these very symbols: of few symbols it is less than any
    decoder could do with, by about (distinct symbols - 1) / 16 * log2(symbols) bytes.
    """
    counts = numpy.bincount(symbols)
    counts = counts[counts > 0]
    return float(-(counts * numpy.log2(counts / len(symbols))).sum() / 8) if len(symbols) else 0.0
