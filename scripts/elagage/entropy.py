"""Symbols <-> bytes at the cost of their order-0 entropy, sequence by sequence, without stored frequency tables.

All arithmetic on frequencies is on exact integers, or IEEE 754 in one order, so that other machines count the same.
"""

import operator
from collections.abc import Iterator
from itertools import accumulate

import constriction
import numpy

# Blocks end where frequencies are renewed: often while these are little known, and seldom enough for the speed of
# decoding. After n symbols comes a block of FIRST_BLOCK + n + n * n / GROWTH, or, for memory, LAST_BLOCK.
GROWTH, LAST_BLOCK = 256, 65536
# Share of the least frequent symbol. constriction 0.5.0 works with 2**-24 in float32, and takes a last symbol that has
# less for impossible, though its documentation says otherwise; 2**-24 was enough in 6,000 trials.
LEAST = 2**-22
# What was measured best, of powers of two, on ResNets, random and trained, pruned and not, as float32 and as int8:
WEIGHT = 8  # of a symbol in the frequencies of all sequences, where each symbol of the alphabet has 1 to start with
FORGET = 8  # of those frequencies one part in so many, rounded down, for each sequence: near layers are more alike
NEIGHBOURHOODS = 8  # equal parts of an alphabet of bytes
NEIGHBOURHOOD_WEIGHT = 16  # symbols of the sequence that the expected frequencies of neighbourhoods weigh
SYMBOL_WEIGHT = 16  # the same for symbols, times how many are in use, but not more than what they were learned from
ONES = numpy.array([symbol.bit_count() for symbol in range(256)])  # bits of a byte that are 1


class ByteFrequencies:
    """Frequencies of bytes, learned on three levels, each of which is what the next expects: a hierarchical prior.

    A sequence is expected to be like those before it; its neighbourhoods of symbols are learned fast, for a density of
    weights is smooth, and its symbols slowly (MacKay, Peto 1995, A hierarchical Dirichlet language model).
    """

    FIRST_BLOCK = 32

    def __init__(self):
        self.all = numpy.ones((NEIGHBOURHOODS, 256 // NEIGHBOURHOODS), numpy.int64)
        # As exact in float64, and added to others in a quarter of the time.
        self.counts = numpy.zeros(self.all.shape)

    def start_sequence(self) -> None:
        """Learn from the sequence that ended what to expect of the next."""
        self.all += WEIGHT * self.counts.astype(numpy.int64)
        self.all -= self.all // FORGET
        neighbourhoods, total = self.all.sum(1, keepdims=True), int(self.all.sum())
        # The inverse Simpson index: hundreds in a byte of mantissa, a few in one of sign and exponent.
        in_use = 1 / numpy.square(self.all / total).cumsum()[-1]  # not sum(), which adds in an order of its own
        self.weight = min(SYMBOL_WEIGHT * in_use, total / WEIGHT)
        self.expected = NEIGHBOURHOOD_WEIGHT / total * neighbourhoods
        self.within = self.weight * (self.all / neighbourhoods)
        self.counts = numpy.zeros(self.all.shape)
        self.length = 0

    def add(self, symbols: numpy.ndarray) -> None:
        self.counts += numpy.bincount(symbols, minlength=256).reshape(self.all.shape)
        self.length += len(symbols)

    def model(self) -> constriction.stream.model.Categorical:
        neighbourhoods = self.expected + self.counts.sum(1, keepdims=True)
        frequencies = self.counts + neighbourhoods / (NEIGHBOURHOOD_WEIGHT + self.length) * self.within
        return _categorical(frequencies.ravel(), self.length + self.weight)


class BitFrequencies:
    """Frequencies of eight bits in a byte, which are independent: one symbol to decode instead of eight.

    Those of a new sequence start at those of all before it, which weigh like two bits.
    """

    FIRST_BLOCK = 8

    def __init__(self):
        self.all_zeros, self.all_ones = 1, 1

    def start_sequence(self) -> None:
        """Forget the sequence that ended, but for its part in all."""
        weight = 2 / (self.all_zeros + self.all_ones)
        self.zeros, self.ones = weight * self.all_zeros, weight * self.all_ones

    def add(self, symbols: numpy.ndarray) -> None:
        ones = int(numpy.count_nonzero(numpy.unpackbits(symbols).view(bool)))
        zeros = 8 * len(symbols) - ones
        self.zeros, self.ones = self.zeros + zeros, self.ones + ones
        self.all_zeros, self.all_ones = self.all_zeros + zeros, self.all_ones + ones

    def model(self) -> constriction.stream.model.Categorical:
        share = self.ones / (self.zeros + self.ones)
        # Multiplied in order, because pow() of other machines rounds otherwise: share**k and (1 - share)**k, k to 8.
        of_ones, of_zeros = (list(accumulate([part] * 8, operator.mul, initial=1.0)) for part in (share, 1 - share))
        by_ones = numpy.array([a * b for a, b in zip(of_ones, reversed(of_zeros), strict=True)])
        return _categorical(by_ones[ONES], 1)


def _categorical(frequencies: numpy.ndarray, total: float) -> constriction.stream.model.Categorical:
    """Return the model of these frequencies, float64 [256], in which no symbol is impossible."""
    frequencies = numpy.maximum(frequencies, LEAST * total, dtype=numpy.float32)
    return constriction.stream.model.Categorical(frequencies, perfect=False)


def _blocks(lengths: list[int], first: int) -> Iterator[tuple[bool, int, int]]:
    """Yield (whether a sequence starts here, first symbol, symbol after the last) for each block of all sequences."""
    end = 0
    for length in lengths:
        begin = start = end
        end = begin + length
        while start < end:
            known = start - begin
            stop = min(start + min(first + known + known * known // GROWTH, LAST_BLOCK), end)
            yield known == 0, start, stop
            start = stop


def encode(symbols: numpy.ndarray, lengths: list[int], kind: type[ByteFrequencies | BitFrequencies]) -> bytes:
    """Return the entropy-coded symbols, uint8 [sum of lengths]: sequences that lie end to end.

    Each block is coded with the frequencies of what came before it, by asymmetric numeral systems (Duda 2013,
    https://arxiv.org/abs/1311.2540), whose decoder takes first what was encoded last.
    """
    frequencies, coded, wide = kind(), [], symbols.astype(numpy.int32)
    for new, start, stop in _blocks(lengths, kind.FIRST_BLOCK):
        if new:
            frequencies.start_sequence()
        coded.append((wide[start:stop], frequencies.model()))
        frequencies.add(symbols[start:stop])
    coder = constriction.stream.stack.AnsCoder()
    for block, model in reversed(coded):
        coder.encode_reverse(block, model)
    return coder.get_compressed().astype("<u4").tobytes()


def decode(coded: bytes, lengths: list[int], kind: type[ByteFrequencies | BitFrequencies]) -> numpy.ndarray:
    """Return the symbols, uint8 [sum of lengths], that `encode` was given with the same lengths and kind.

    Other bytes than those give other symbols, or ValueError.
    """
    coder = constriction.stream.stack.AnsCoder(numpy.frombuffer(coded, "<u4").astype(numpy.uint32))
    frequencies, symbols = kind(), numpy.empty(sum(lengths), numpy.uint8)
    for new, start, stop in _blocks(lengths, kind.FIRST_BLOCK):
        if new:
            frequencies.start_sequence()
        symbols[start:stop] = coder.decode(frequencies.model(), stop - start)
        frequencies.add(symbols[start:stop])
    return symbols


def entropy_bytes(symbols: numpy.ndarray) -> float:
    """Return the order-0 entropy of all symbols (uint8) together, in bytes: -sum of log2(frequency) / 8.

    It counts no table of the frequencies, which are those of these very symbols: of few symbols it is less than any
    decoder could do with, by about (distinct symbols - 1) / 16 * log2(symbols) bytes.
    """
    counts = numpy.bincount(symbols)
    counts = counts[counts > 0]
    return float(-(counts * numpy.log2(counts / len(symbols))).sum() / 8) if len(symbols) else 0.0
