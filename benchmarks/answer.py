"""How often an answer is wrong, how often there is one, and how far it is from the best: on studies of known truth.

Each simulated study has 60 variants of one reference and costs by three objectives. Whether an image is classified
correctly is decided by a difficulty that all models share and a part of their own, so that models are correct on the
same images as those of a real study are; the true accuracy of each is known. The answers are Elagage's, by the
functions that the workflow uses, and those of the rule of other tools: the cheapest file whose measured loss is within
the margin. An answer is wrong if any of the three files is beyond the margin. Prints a Markdown table.
"""

import argparse
import pathlib
import sys
from collections.abc import Callable
from typing import NamedTuple

import numpy
import scipy.special
import scipy.stats

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "scripts"))

from elagage.certification import levels, sequence
from elagage.noninferiority import log_chance_to_pass, loss_bounds, p_value

VARIANTS = 60
OBJECTIVES = ("file_size", "packed_size", "time")
MARGIN = 0.01
LEVEL = 0.05
SIZES = (300, 1000, 3000, 10_000)  # test images; half as many are for validation


class Study(NamedTuple):
    """The truth: accuracy of the reference, loss of each variant [n], costs [objectives, n] of a reference of 1.

    shared: the variance that all models share, of the whole 1.
    """

    accuracy: float
    losses: numpy.ndarray
    costs: numpy.ndarray
    shared: float


def losses_at_the_margin(random: numpy.random.Generator, _: numpy.ndarray) -> numpy.ndarray:
    """The least favourable case: any answer is wrong."""
    return numpy.full(VARIANTS, MARGIN)


def losses_beyond_the_margin(random: numpy.random.Generator, _: numpy.ndarray) -> numpy.ndarray:
    """All variants a little beyond the margin."""
    return MARGIN + random.exponential(0.003, VARIANTS)


def losses_of_curves(random: numpy.random.Generator, compression: numpy.ndarray) -> numpy.ndarray:
    """Nothing is lost up to a knee, more and more beyond it."""
    beyond = numpy.clip(compression - random.uniform(0.3, 0.8), 0, None)
    return 0.002 * random.normal(0, 1, VARIANTS) + 0.12 * beyond**1.7


def losses_of_all_kinds(random: numpy.random.Generator, _: numpy.ndarray) -> numpy.ndarray:
    """Losses that have nothing to do with the costs, many of them at the margin."""
    return random.choice([-0.003, 0, 0.004, 0.008, 0.01, 0.012, 0.02, 0.05], VARIANTS)


TRUTHS: dict[str, Callable] = {
    "all at the margin": losses_at_the_margin,
    "all a little beyond": losses_beyond_the_margin,
    "curves with a knee": losses_of_curves,
    "of all kinds": losses_of_all_kinds,
}


def study(random: numpy.random.Generator, truth: Callable) -> Study:
    """Return a study whose losses are those of `truth`."""
    compression = random.uniform(0, 1, VARIANTS)
    costs = numpy.exp(-3 * compression + random.normal(0, 0.25, (len(OBJECTIVES), VARIANTS)))
    return Study(random.uniform(0.8, 0.97), truth(random, compression), costs, random.uniform(0.93, 0.995))


def lost_and_won(random: numpy.random.Generator, of: Study, images: int) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Return how many images the reference alone, and each variant alone, classifies correctly: int64 [n] each."""
    accuracies = numpy.concatenate([[of.accuracy], numpy.clip(of.accuracy - of.losses, 0.01, 0.999)])
    difficulty = numpy.float32(of.shared**0.5) * random.standard_normal(images, numpy.float32)
    own = numpy.float32((1 - of.shared) ** 0.5) * random.standard_normal((len(accuracies), images), numpy.float32)
    correct = difficulty + own < scipy.special.ndtri(accuracies)[:, None]
    return (correct[0] & ~correct[1:]).sum(1), (~correct[0] & correct[1:]).sum(1)


def certified(validation, test, images: int, costs: numpy.ndarray) -> numpy.ndarray:
    """Return the indices of the files that Elagage certifies; validation, test: lost and won."""
    chances = log_chance_to_pass(*validation, images // 2, images, MARGIN, LEVEL)
    known = numpy.repeat(costs[..., None], 3, axis=2)  # without an interval
    order = sequence(chances, dict(zip(OBJECTIVES, known, strict=True)), dict.fromkeys(OBJECTIVES, 1.0))
    p_values = p_value(test[0][order], test[1][order], images, MARGIN)
    return numpy.array(order, int)[p_values <= levels(p_values.tolist(), LEVEL)]


def within_by_the_point_estimate(validation, test, images: int, costs: numpy.ndarray) -> numpy.ndarray:
    """Return the indices of the files whose measured loss on test images is within the margin."""
    return numpy.flatnonzero(test[0] - test[1] <= MARGIN * images)


RULES = {"Elagage": certified, "point estimate": within_by_the_point_estimate}


class Outcomes(NamedTuple):
    """Of many studies, [studies] each: whether an answer was wrong, share of objectives answered, distance.

    distance: mean logarithm of the cost of the answer, or of the reference, by that of the best file that is within the
    margin; NaN where the answer is wrong. covered: share of the variants' 95 % bounds that hold their true loss.
    """

    wrong: numpy.ndarray
    answered: numpy.ndarray
    distance: numpy.ndarray
    covered: numpy.ndarray


def simulate(truth: Callable, images: int, studies: int, seed: int = 0) -> dict[str, Outcomes]:
    """Return for each rule what became of the studies."""
    random = numpy.random.default_rng(seed)
    rows: dict[str, list] = {rule: [] for rule in RULES}
    for _ in range(studies):
        of = study(random, truth)
        validation, test = (lost_and_won(random, of, count) for count in (images // 2, images))
        allowed = of.losses < MARGIN
        best = numpy.where(allowed, of.costs, 1).min(1).clip(max=1)
        upper = loss_bounds(int(test[0][0]), int(test[1][0]), images, 1 - LEVEL)[1]
        for rule, passed_by in RULES.items():
            passed = passed_by(validation, test, images, of.costs)
            cheapest = [passed[of.costs[place, passed].argmin()] for place in range(len(OBJECTIVES)) if len(passed)]
            wrong = not allowed[cheapest].all()
            cost = numpy.array([of.costs[place, file] for place, file in enumerate(cheapest)] or [1.0]).clip(max=1)
            distance = numpy.nan if wrong else numpy.log(cost / best).mean()
            rows[rule].append((wrong, len(cheapest) / len(OBJECTIVES), distance, of.losses[0] <= upper))
    return {rule: Outcomes(*numpy.array(of_rule, float).T) for rule, of_rule in rows.items()}


def wrong_interval(found: Outcomes) -> tuple[float, float]:
    """Return the exact 95 % interval of the share of wrong answers (Clopper, Pearson 1934)."""
    interval = scipy.stats.binomtest(int(found.wrong.sum()), len(found.wrong)).proportion_ci(method="exact")
    return interval.low, interval.high


def main(studies: int) -> None:
    """Print the table."""
    print(f"{studies} studies per row; margin {MARGIN:.0%}, level {LEVEL:.0%}\n")
    print("| true losses | test images | rule | wrong [95 %] | answered | times the best cost | upper bound holds |")
    print("|---|---:|---|---:|---:|---:|---:|")
    for title, truth in TRUTHS.items():
        for images in SIZES:
            for rule, found in simulate(truth, images, studies).items():
                low, high = wrong_interval(found)
                right = found.distance[~numpy.isnan(found.distance)]
                distance = f"{numpy.exp(right.mean()):.2f}" if len(right) else ""
                wrong = f"{found.wrong.mean():.1%} [{low:.1%}, {high:.1%}]"
                shares = f"{found.answered.mean():.0%} | {distance} | {found.covered.mean():.1%}"
                print(f"| {title} | {images:,} | {rule} | {wrong} | {shares} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000, help="simulated per row of the table")
    main(parser.parse_args().studies)
