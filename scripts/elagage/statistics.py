"""Intervals for measured shares, times and differences, by SciPy."""

import numpy
import scipy.stats

CONFIDENCE = 0.95


def wilson_interval(correct: int, images: int) -> tuple[float, float]:
    """Return the 95 % interval of the share correct / images (Wilson 1927)."""
    interval = scipy.stats.binomtest(correct, images).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def loads_interval(values: numpy.ndarray) -> tuple[float, float, float]:
    """Return the geometric mean of positive values, [loads], and its 95 % interval (Student 1908, of the logarithms).

    Each value is that of one load of a model. A load is the unit, because all times of one share where its weights lie
    in memory. The interval covers loads and moments of one run, not the difference between machines.
    """
    logarithms = numpy.log(values)
    mean, error = numpy.mean(logarithms), scipy.stats.sem(logarithms)
    half = error * scipy.stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)
    return float(numpy.exp(mean)), float(numpy.exp(mean - half)), float(numpy.exp(mean + half))


def share_became_correct(before: numpy.ndarray, after: numpy.ndarray) -> tuple[float, float, float]:
    """Return, of the images that changed between correct and wrong, the share that became correct, and its interval.

    before, after: bool [n], whether each image is classified correctly. The interval is exact, 95 %; if all of it lies
    above a half, more images became correct than chance explains (McNemar 1947; Clopper, Pearson 1934).
    """
    changed = int((before != after).sum())
    if not changed:
        return 0.5, 0.0, 1.0
    test = scipy.stats.binomtest(int((after & ~before).sum()), changed)
    interval = test.proportion_ci(CONFIDENCE, method="exact")
    return float(test.statistic), float(interval.low), float(interval.high)


def mean_difference_interval(before: numpy.ndarray, after: numpy.ndarray) -> tuple[float, float, float]:
    """Return the mean of before - after, [n] each, of the same images, and its 95 % interval (Student 1908)."""
    low, high = scipy.stats.ttest_rel(before, after).confidence_interval(CONFIDENCE)
    return float(numpy.mean(before - after)), float(low), float(high)
