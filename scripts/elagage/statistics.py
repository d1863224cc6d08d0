"""Intervals for measured shares, times and differences, by SciPy."""

import numpy
import scipy.stats

CONFIDENCE = 0.95


def wilson_interval(correct: int, images: int) -> tuple[float, float]:
    """Return the 95 % interval of the share correct / images (Wilson 1927)."""
    interval = scipy.stats.binomtest(correct, images).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def most_frequent_share(labels: numpy.ndarray) -> float:
    """Return the share of the most frequent class, the accuracy of always guessing it; labels: int [n]."""
    return float(numpy.bincount(labels).max() / len(labels))


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


def mean_interval(values: numpy.ndarray) -> tuple[float, float, float]:
    """Return the mean of two or more values, [n], and its 95 % interval (Student 1908)."""
    mean = float(numpy.mean(values))
    half = float(scipy.stats.sem(values) * scipy.stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
    return mean, mean - half, mean + half


def p_of_accuracies(first: numpy.ndarray, second: numpy.ndarray, paired: bool) -> float:
    """Return the p-value of the hypothesis that two models are equally accurate.

    first, second: bool, whether each image is classified correctly; [n] each, of the same images, if paired, where the
    test is McNemar's exact one (1947); of different images it is Fisher's exact one (1922).
    """
    if not paired:
        counts = [[int(correct.sum()), int((~correct).sum())] for correct in (first, second)]
        return float(scipy.stats.fisher_exact(counts).pvalue)
    lost, changed = int((first & ~second).sum()), int((first != second).sum())
    return float(scipy.stats.binomtest(lost, changed).pvalue) if changed else 1.0


def ratio_of_means(first: tuple, second: tuple, loads: int) -> tuple[float, float, float, float]:
    """Return second / first with its 95 % interval, and the p-value of the hypothesis that it is 1 (Welch 1947).

    first, second: what loads_interval returned, of as many loads each.
    """
    quantile = scipy.stats.t.ppf((1 + CONFIDENCE) / 2, loads - 1)
    errors = [(numpy.log(high) - numpy.log(low)) / (2 * quantile) for _, low, high in (first, second)]
    error = numpy.hypot(*errors)
    logarithm = numpy.log(second[0] / first[0])
    if error == 0:
        ratio = float(numpy.exp(logarithm))
        return ratio, ratio, ratio, float(logarithm == 0)
    freedom = (loads - 1) * error**4 / sum(part**4 for part in errors)
    half = error * scipy.stats.t.ppf((1 + CONFIDENCE) / 2, freedom)
    ratio, low, high = (float(numpy.exp(logarithm + step)) for step in (0, -half, half))
    return ratio, low, high, float(2 * scipy.stats.t.sf(abs(logarithm) / error, freedom))


def adjusted(p_values: list[float]) -> list[float]:
    """Return p-values of which each can be compared with 5 % though there are many of them (Holm 1979)."""
    order, result, largest = numpy.argsort(p_values), numpy.empty(len(p_values)), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        result[index] = largest
    return result.tolist()
