"""Symbols <-> bytes at the cost of their order-0 entropy, sequence by sequence, without stored frequency tables.

All arithmetic on frequencies is on exact integers, or IEEE 754 in one order, so that other machines count the same.
"""

import functools
import operator
from collections.abc import Iterator
from itertools import accumulate, pairwise

import constriction
import numpy

# Blocks end where frequencies are renewed: often while these are little known, and seldom enough for the speed of
# decoding. After n symbols comes a block of FIRST_BLOCK + n + n * n / GROWTH, or, for memory, LAST_BLOCK.
FIRST_BLOCK, GROWTH, LAST_BLOCK = 32, 64, 65536
# Share of the least frequent symbol. constriction 0.5.0 rounds sums of frequencies to steps of 2**-24, in float32, and
# takes a last symbol that has less for impossible, though its documentation says otherwise. These are 4 steps, of which
# rounding takes at most 1.5.
LEAST = 2**-22
BATCH = 512  # blocks whose frequencies are computed at once; each takes some 15 kB until then
# What was measured best, of powers of two, on ResNets, random and trained, pruned and not, as float32 and as int8:
WEIGHT = 8  # of a symbol in the frequencies of all sequences, where each symbol of the alphabet has 1 to start with
FORGET = 8  # of those frequencies one part in so many, rounded down, for each sequence: near layers are more alike
NEIGHBOURHOODS = 8  # equal parts of an alphabet of bytes
NEIGHBOURHOOD_WEIGHT = 16  # symbols of the sequence that the expected frequencies of neighbourhoods weigh
SYMBOL_WEIGHT = 16  # the same for symbols, times how many are in use, but not more than what they were learned from
ONES = numpy.array([symbol.bit_count() for symbol in range(256)], numpy.uint8)  # bits of a byte that are 1
# Shares of ones that a byte tells apart: q * q * (3 - 2 * q), whose steps are nearly those of the arcsine of the root,
# in which each costs the same: the cheapest at most 3.4e-5 bits for each bit.
SHARES = numpy.square(QUANTILES := (numpy.arange(256) + 0.5) / 256) * (3 - 2 * QUANTILES)
# What a 1 and a 0 cost at each share.
BITS_OF_ONE, BITS_OF_ZERO = -numpy.log2(SHARES), -numpy.log2(1 - SHARES)


class ByteFrequencies:
    """Frequencies of bytes, learned on three levels, each of which is what the next expects: a hierarchical prior.

    A sequence is expected to be like those before it; its neighbourhoods of symbols are learned fast, for a density of
    weights is smooth, and its symbols slowly (MacKay, Peto 1995, A hierarchical Dirichlet language model).
    """

    def __init__(self):
        # Integers, as exact in float64, and added to others in a quarter of the time.
        self.all = numpy.ones((NEIGHBOURHOODS, 256 // NEIGHBOURHOODS))
        self.counts = numpy.zeros(self.all.shape)

    def start_sequence(self) -> None:
        """Learn from the sequence that ended what to expect of the next."""
        self.all += WEIGHT * self.counts
        self.all -= numpy.floor(self.all / FORGET)
        neighbourhoods = self.all.sum(1, keepdims=True)
        total = float(neighbourhoods.sum())
        # The inverse Simpson index: hundreds in a byte of mantissa, a few in one of sign and exponent.
        in_use = 1 / numpy.square(self.all / total).cumsum()[-1]  # not sum(), which adds in an order of its own
        self.weight = min(SYMBOL_WEIGHT * in_use, total / WEIGHT)
        self.expected = NEIGHBOURHOOD_WEIGHT / total * neighbourhoods
        self.within = self.weight * (self.all / neighbourhoods)
        self.counts = numpy.zeros(self.all.shape)
        self.length = 0

    def add(self, symbols: numpy.ndarray) -> None:
        # Not in place: what `known` returned stays as it was.
        self.counts = self.counts + numpy.bincount(symbols, minlength=256).reshape(self.all.shape)
        self.length += len(symbols)

    def known(self) -> tuple[numpy.ndarray, int, numpy.ndarray, numpy.ndarray, float]:
        """Return what `_next_frequencies` takes."""
        return self.counts, self.length, self.expected, self.within, self.weight


def _next_frequencies(counts, length, expected, within, weight) -> numpy.ndarray:
    """Return the frequencies to expect next, float32 [..., 256], for one place or, in a quarter of the time, for many.

    counts and within: float64 [..., NEIGHBOURHOODS, symbols of each]; expected: [..., NEIGHBOURHOODS, 1]; length and
    weight: numbers, or [..., 1, 1].
    """
    neighbourhoods = (expected + counts.sum(-1, keepdims=True)) / (NEIGHBOURHOOD_WEIGHT + length)
    frequencies = numpy.maximum(counts + neighbourhoods * within, LEAST * (length + weight), dtype=numpy.float32)
    return frequencies.reshape(*frequencies.shape[:-2], 256)


def _categorical(frequencies: numpy.ndarray) -> constriction.stream.model.Categorical:
    """Return the model of these frequencies, float32 [256], none of them less than the share LEAST."""
    return constriction.stream.model.Categorical(frequencies, perfect=False)


def _blocks(lengths: list[int]) -> Iterator[tuple[bool, int, int]]:
    """Yield (whether a sequence starts here, first symbol, symbol after the last) for each block of all sequences."""
    end = 0
    for length in lengths:
        begin = start = end
        end = begin + length
        while start < end:
            before = start - begin
            stop = min(start + min(FIRST_BLOCK + before + before * before // GROWTH, LAST_BLOCK), end)
            yield before == 0, start, stop
            start = stop


def encode_bytes(symbols: numpy.ndarray, lengths: list[int]) -> bytes:
    """Return the entropy-coded symbols, uint8 [sum of lengths]: sequences that lie end to end.

    Each block is coded with the frequencies of what came before it.
    """
    frequencies, blocks, known, models = ByteFrequencies(), [], [], []
    for new, start, stop in _blocks(lengths):
        if new:
            frequencies.start_sequence()
        blocks.append(symbols[start:stop])
        known.append(frequencies.known())
        frequencies.add(blocks[-1])
        if len(known) == BATCH or stop == len(symbols):
            models += _models(known)
            known = []
    return _coded(list(zip(blocks, models, strict=True)))


def _models(known: list[tuple]) -> Iterator[constriction.stream.model.Categorical]:
    """Return the models at several places, each of which ByteFrequencies.known returned."""
    counts, length, expected, within, weight = map(numpy.array, zip(*known, strict=True))
    each = _next_frequencies(counts, length[:, None, None], expected, within, weight[:, None, None])
    return map(_categorical, each)


def decode_bytes(coded: bytes, lengths: list[int]) -> numpy.ndarray:
    """Return the symbols, uint8 [sum of lengths], that `encode_bytes` was given with the same lengths.

    Other bytes than those give other symbols, or ValueError.
    """
    decoder = _decoder(coded)
    frequencies, symbols = ByteFrequencies(), numpy.empty(sum(lengths), numpy.uint8)
    for new, start, stop in _blocks(lengths):
        if new:
            frequencies.start_sequence()
        symbols[start:stop] = decoder.decode(_categorical(_next_frequencies(*frequencies.known())), stop - start)
        frequencies.add(symbols[start:stop])
    return symbols


def encode_bits(symbols: numpy.ndarray, lengths: list[int]) -> bytes:
    """Return the entropy-coded bits, uint8 [sum of lengths], eight in a symbol: sequences that lie end to end.

    Before them comes, a byte for each sequence, the share of its bits that are 1. Learning it would cost a byte as
    well, and the time for models that are renewed.
    """
    sequences = split(symbols, lengths)
    shares = bytes(map(_cheapest_share, sequences))
    pairs = zip(sequences, map(_bits, shares), strict=True)
    return shares + _coded([(piece, model) for sequence, model in pairs for piece in _pieces(sequence)])


def decode_bits(coded: bytes, lengths: list[int]) -> numpy.ndarray:
    """Return the bits, uint8 [sum of lengths], eight in a symbol, that `encode_bits` was given with the same lengths.

    Other bytes than those give other bits, or ValueError.
    """
    shares, decoder = coded[: len(lengths)], _decoder(coded[len(lengths) :])
    symbols = numpy.empty(sum(lengths), numpy.uint8)
    for share, sequence in zip(shares, split(symbols, lengths), strict=True):
        for piece in _pieces(sequence):
            piece[:] = decoder.decode(_bits(share), len(piece))
    return symbols


def _cheapest_share(symbols: numpy.ndarray) -> int:
    ones = int(ONES[symbols].sum())
    return int((ones * BITS_OF_ONE + (8 * len(symbols) - ones) * BITS_OF_ZERO).argmin())


def _pieces(symbols: numpy.ndarray) -> list[numpy.ndarray]:
    """Return the symbols piece by piece, of which copies take little memory."""
    return [symbols[start : start + LAST_BLOCK] for start in range(0, len(symbols), LAST_BLOCK)]


@functools.cache
def _bits(share: int) -> constriction.stream.model.Categorical:
    """Return the model of eight independent bits of which each is 1 with the probability SHARES[share]."""
    one = float(SHARES[share])
    # Multiplied in order, because pow() of other machines rounds otherwise: one**k and (1 - one)**k, k to 8.
    of_ones, of_zeros = (list(accumulate([part] * 8, operator.mul, initial=1.0)) for part in (one, 1 - one))
    by_ones = numpy.array([a * b for a, b in zip(of_ones, reversed(of_zeros), strict=True)])
    return _categorical(numpy.maximum(by_ones[ONES], LEAST, dtype=numpy.float32))


def _coded(blocks: list[tuple[numpy.ndarray, constriction.stream.model.Categorical]]) -> bytes:
    """Return the symbols of all blocks, uint8, coded each with its model, for a decoder that takes the first first.

    By asymmetric numeral systems (Duda 2013, https://arxiv.org/abs/1311.2540), whose decoder takes what was encoded
    last.
    """
    coder = constriction.stream.stack.AnsCoder()
    for symbols, model in reversed(blocks):
        coder.encode_reverse(symbols.astype(numpy.int32), model)
    return coder.get_compressed().astype("<u4").tobytes()


def _decoder(coded: bytes) -> constriction.stream.stack.AnsCoder:
    """Return what decodes these bytes; raises ValueError if `_coded` could not have made them."""
    return constriction.stream.stack.AnsCoder(numpy.frombuffer(coded, "<u4").astype(numpy.uint32))


def entropy_bytes(symbols: numpy.ndarray, lengths: list[int]) -> float:
    """Return the sum of the order-0 entropies of sequences (uint8) that lie end to end, in bytes.

    Of each: -sum of log2(frequency) / 8. It counts no table of the frequencies, which are those of these very symbols:
    of few symbols it is less than any decoder could do with, by about (distinct symbols - 1) / 16 * log2(symbols)
    bytes.
    """
    counts = numpy.array([_counts(part) for part in split(symbols, lengths)])
    return float(_times_log2(numpy.array(lengths)) - _times_log2(counts)) / 8


def _counts(symbols: numpy.ndarray) -> numpy.ndarray:
    """Return how often each byte occurs, [256]; in pieces, because bincount makes eight bytes of each."""
    each = (numpy.bincount(piece, minlength=256) for piece in _pieces(symbols))
    return sum(each, numpy.zeros(256, numpy.int64))


def _times_log2(counts: numpy.ndarray) -> numpy.float64:
    return (counts * numpy.log2(numpy.maximum(counts, 1))).sum()


def split(symbols: numpy.ndarray, lengths: list[int]) -> list[numpy.ndarray]:
    """Return the sequences that lie end to end; in a quarter of the time of numpy.split."""
    return [symbols[start:stop] for start, stop in pairwise(accumulate(lengths, initial=0))]
