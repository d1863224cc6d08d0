"""How far the logits of two computations of the same network differ."""

import numpy

# Relative difference of logits that sums in another order may make: 1e-6 in most networks, where wrong logits make 0.1.
SUMS_DIFFER = 1e-3


def logits_difference(logits: numpy.ndarray, expected: numpy.ndarray) -> float:
    """Return how far logits, float32 [n, classes], differ at most, relative to their size and standard deviation.

    NaN if one is not a finite number where the other is another.
    """
    same = (logits == expected) | (numpy.isnan(logits) & numpy.isnan(expected))
    with numpy.errstate(all="ignore"):
        relative = numpy.abs(logits - expected) / (numpy.abs(expected) + numpy.nan_to_num(expected.std()))
    return float(numpy.where(same, 0, relative).max())
