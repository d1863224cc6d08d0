"""How much accuracy a model loses against another on the same images: bounds, tests, and how many images they take.

Images are paired: `lost` of them are correct with the reference only, `won` with the other model only. The loss is the
difference of the accuracies, (lost - won) / images, as a share. Everything is Tango's score test (1998) with a
continuity correction of half an image, without which its level reaches 6 % where 5 % are meant
(tests/test_noninferiority.py enumerates it). All bounds and tests are one-sided.
"""

import numpy
import scipy.optimize
import scipy.special
import scipy.stats
from numpy.typing import ArrayLike

POWER = 0.8  # with which the numbers of images say that a test will tell
DIFFERING = (0, 0.02, 0.05)  # shares of images on which models differ, for which the smallest margin is told
HALF = 0.5  # image, the continuity correction
FEW = 100  # images that differ, up to which the smallest margin counts all cases: the normal distribution has no few


def p_value(lost: ArrayLike, won: ArrayLike, images: int, margin: float) -> numpy.ndarray:
    """Return the p-value of the hypothesis that the loss is `margin` or more: a small one says that it is less.

    lost, won: numbers of images, [n] or single ones; margin: a share, above -1 and below 1.
    """
    return scipy.special.ndtr(_score(lost, won, images, margin))


def _score(lost: ArrayLike, won: ArrayLike, images: int, loss: float) -> numpy.ndarray:
    """Return Tango's statistic, standard normal where the loss is `loss`, for counts that are moved towards a loss."""
    lost = numpy.minimum(numpy.asarray(lost, float) + HALF, images)
    won = numpy.maximum(numpy.asarray(won, float) - HALF, 0)
    # The likeliest share of images won, given the loss, solves 2 images q^2 - linear q - won loss (1 - loss) = 0.
    linear = lost * (1 + loss) + won * (1 - loss) - 2 * images * loss
    root = numpy.sqrt(numpy.maximum(linear**2 + 8 * images * won * loss * (1 - loss), 0))
    share_won = numpy.maximum((linear + root) / (4 * images), max(0.0, -loss))
    variance = images * (2 * share_won + loss - loss**2)
    difference = lost - won - images * loss
    return difference / numpy.sqrt(numpy.maximum(variance, 1e-12))


def loss_bounds(lost: int, won: int, images: int, confidence: float) -> tuple[float, float]:
    """Return a lower and an upper bound of the loss, each of which holds with this confidence by itself."""
    return -_upper_bound(won, lost, images, confidence), _upper_bound(lost, won, images, confidence)


def _upper_bound(lost: int, won: int, images: int, confidence: float) -> float:
    """Return the margin from which on the test says that the loss is less."""
    too_large = lambda margin: float(p_value(lost, won, images, margin)) - (1 - confidence)  # noqa: E731
    low, high = (lost - won) / images, 1 - 1e-9
    return scipy.optimize.brentq(too_large, low, high) if too_large(high) < 0 < too_large(low) else 1.0


def images_to_tell(lost: int, won: int, images: int, margin: float, confidence: float) -> float:
    """Return about how many test images would tell, with POWER, whether the loss is below or above the margin.

    It takes the loss and the share of images that differ to be those measured; infinite if the loss is the margin.
    """
    loss = (lost - won) / images
    gap, deviation = abs(margin - loss), numpy.sqrt(max(lost + won, 1) / images - loss**2)
    return _images(gap, deviation, confidence) if gap else float("inf")


def _images(gap: float, deviation: float, confidence: float) -> float:
    """Return n of gap sqrt(n) - 1 / sqrt(n) = quantiles * deviation; the correction takes one image away."""
    spread = deviation * (scipy.special.ndtri(confidence) + scipy.special.ndtri(POWER))
    return float((spread + numpy.sqrt(spread**2 + 4 * gap)) / (2 * gap)) ** 2


def smallest_margin(images: int, differing: float, confidence: float) -> float:
    """Return the smallest loss that these test images can rule out for a model that loses nothing.

    differing: share of images of which one model alone is correct; 0 counts on no such image, else with POWER. The
    level is that of the first file of several (elagage.certification.shares): half of 1 - confidence.
    """
    first = (1 + confidence) / 2
    if differing == 0:
        return _upper_bound(0, 0, images, first)
    if differing * images <= FEW:
        return _smallest_of_all_cases(images, differing, 1 - first)
    quantiles = scipy.special.ndtri(first) + scipy.special.ndtri(POWER)
    return float(quantiles * numpy.sqrt(differing / images)) + 2 * HALF / images


def _smallest_of_all_cases(images: int, differing: float, level: float) -> float:
    """Return the smallest margin that is ruled out at this level with POWER, by the probabilities of all counts."""
    most = int(scipy.stats.binom.ppf(1 - 1e-9, images, differing))
    lost, won = numpy.meshgrid(numpy.arange(most + 1), numpy.arange(most + 1))
    kept = lost + won <= images
    lost, won = lost[kept], won[kept]
    counts = numpy.stack([lost, won, images - lost - won], axis=-1)
    chances = scipy.stats.multinomial.pmf(counts, images, [differing / 2, differing / 2, 1 - differing])
    beyond = lambda margin: chances[p_value(lost, won, images, margin) <= level].sum() - POWER  # noqa: E731
    low, high = 1e-9, 1 - 1e-9
    return scipy.optimize.bisect(beyond, low, high, xtol=1e-6) if beyond(low) < 0 < beyond(high) else 1.0


def images_to_certify(margin: float, confidence: float) -> int:
    """Return how many test images rule out this loss for a model that answers all of them as the reference does."""
    most = 1
    while smallest_margin(most, 0, confidence) >= margin:
        most *= 2
    few = most // 2
    while most - few > 1:
        middle = (few + most) // 2
        few, most = (middle, most) if smallest_margin(middle, 0, confidence) >= margin else (few, middle)
    return most


def log_chance_to_pass(
    lost: numpy.ndarray, won: numpy.ndarray, images: int, test_images: int, margin: float, level: float
) -> numpy.ndarray:
    """Return the logarithm of the probability, [n], that models will pass the test at this level on other images.

    lost, won: [n], of `images` validation images, which stand for the truth with their own uncertainty.
    """
    loss = (lost - won) / images
    deviation = numpy.sqrt((lost + won + 1) / images - loss**2)
    room = margin - loss - 2 * HALF / test_images - scipy.special.ndtri(1 - level) * deviation / numpy.sqrt(test_images)
    return scipy.special.log_ndtr(room / (deviation * numpy.sqrt(1 / images + 1 / test_images)))
