"""Which files are within the margin, with a guarantee for all of them: ordered on validation images, tested on others.

The order is that of Pareto testing (Laufer-Goldshtein et al. 2023): of the files that are cheaper than the reference,
those on the front of chance to pass and cost, the likeliest first. The test is the fallback procedure (Wiens 2003):
each file has a share of the level, and hands it on to the next one if it passes. The probability that any file passes
whose loss is the margin or more is at most the level, however the files depend on each other; what chose the order
costs power alone, as long as it saw no test label.

One sequence serves all objectives: in simulated studies three of them, each with a third of the level, ended in fewer
answers, and a plain fixed sequence, which stops at the first failure, in worse ones.
"""

from collections.abc import Mapping, Sequence

import numpy

TIE = 0.01  # costs that differ by less are the same: the metadata of files differ by some bytes


def front(chances: numpy.ndarray, costs: numpy.ndarray) -> list[int]:
    """Return the indices of the files than which no cheaper one has as good a chance, the cheapest first."""
    best, kept = -numpy.inf, []
    for index in numpy.lexsort((-chances, costs)):
        if chances[index] > best:
            best = chances[index]
            kept.append(int(index))
    return kept


def cheaper(high: numpy.ndarray, reference: float) -> numpy.ndarray:
    """Return whether files cost less than the reference, by more than their intervals and TIE; high: upper ends."""
    return high < reference * (1 - TIE)


def sequence(chances: numpy.ndarray, costs: Mapping[str, numpy.ndarray], reference: Mapping[str, float]) -> list[int]:
    """Return the indices of the files to test, in this order.

    chances: [n], to pass, or their logarithms; costs: objective -> [n, 3], low, cost and high; reference: objective ->
    cost. Only what is cheaper than the reference by some objective is worth a test.
    """
    found: set[int] = set()
    for objective, cost in costs.items():
        worth = numpy.flatnonzero(cheaper(cost[:, 2], reference[objective]))
        found |= {int(worth[index]) for index in front(chances[worth], cost[worth, 1])}
    return sorted(found, key=lambda index: (-chances[index], index))


def shares(count: int, level: float) -> list[float]:
    """Return each test's share of the level: half of it, a quarter, and so on; the last of `count` has the rest."""
    halves = [level / 2 ** (place + 1) for place in range(count)]
    return [*halves[:-1], 2 * halves[-1]] if halves else []


def levels(p_values: Sequence[float], level: float) -> list[float]:
    """Return the level at which each file of a sequence is tested; it passes if its p-value is not above it."""
    tested, handed_on = [], 0.0
    for p_value, share in zip(p_values, shares(len(p_values), level), strict=True):
        tested.append(share + handed_on)
        handed_on = tested[-1] if p_value <= tested[-1] else 0.0
    return tested


def cheapest(low: numpy.ndarray, cost: numpy.ndarray, high: numpy.ndarray, accuracy: numpy.ndarray) -> int:
    """Return the index of the file with the least cost or, of those whose intervals meet its own, the most accurate.

    low, cost, high: [n]; accuracy: [n], on validation images.
    """
    least = int(numpy.argmin(cost))
    tied = numpy.flatnonzero((low <= high[least]) | (cost <= cost[least] * (1 + TIE)))
    return int(max(tied, key=lambda index: (accuracy[index], -cost[index])))
