"""Loss of accuracy against a reference: the level of the test, its bounds, and the numbers of images."""

import numpy
import pytest
import scipy.stats

from elagage.noninferiority import (
    images_to_certify,
    images_to_tell,
    log_chance_to_pass,
    loss_bounds,
    p_value,
    smallest_margin,
)

SHARES_WON = numpy.concatenate([[0, 1e-4, 3e-4, 1e-3], numpy.arange(0.004, 0.2, 0.01), numpy.arange(0.2, 0.49, 0.05)])


def level(images: int, margin: float, alpha: float, share_won: float) -> float:
    """Return how likely the test takes a loss of exactly the margin for less, summed over all outcomes."""
    share_lost = share_won + margin
    differing = numpy.arange(images + 1)
    probability = scipy.stats.binom.pmf(differing, images, share_won + share_lost)
    total = 0.0
    for count in differing[probability > 1e-12]:
        lost = numpy.arange(count + 1)
        passed = p_value(lost, count - lost, images, margin) <= alpha
        outcomes = scipy.stats.binom.pmf(lost, count, share_lost / (share_won + share_lost))
        total += probability[count] * outcomes[passed].sum()
    return total


@pytest.mark.parametrize("images", [100, pytest.param(300, marks=pytest.mark.slow)])
@pytest.mark.parametrize("margin", [0.005, 0.01, 0.02, 0.05])
@pytest.mark.parametrize("alpha", [0.05, 0.0125])
def test_a_model_at_the_margin_passes_no_more_often_than_the_level_whatever_differs(images, margin, alpha):
    levels = [level(images, margin, alpha, share) for share in SHARES_WON if 2 * share + margin <= 1]
    assert max(levels) <= alpha
    assert max(levels) > alpha / 2  # and is no more careful than it has to be


def test_without_differing_images_it_is_the_share_of_runs_without_a_loss():
    # If the loss were 1 %, 299 images without one would be as likely as 0.99^299 = 5 %; the correction asks for more.
    needed = next(images for images in range(100, 1000) if p_value(0, 0, images, 0.01) <= 0.05)
    assert 299 <= needed <= 450


def test_bounds_are_where_the_test_just_tells():
    low, high = loss_bounds(30, 10, 1000, 0.95)
    assert low < 0.02 < high
    assert p_value(30, 10, 1000, high) == pytest.approx(0.05, abs=1e-6)
    assert loss_bounds(10, 30, 1000, 0.95) == pytest.approx((-high, -low))
    assert loss_bounds(30, 10, 1000, 0.99)[1] > high > loss_bounds(300, 100, 10000, 0.95)[1] > 0.02


def test_bounds_of_pairs_that_never_or_always_differ_exist():
    low, high = loss_bounds(0, 0, 100, 0.95)
    assert -high == low and 0 < high < 0.06
    assert loss_bounds(20, 0, 20, 0.95)[1] == 1
    assert loss_bounds(0, 20, 20, 0.95)[0] == -1


@pytest.mark.parametrize(("loss", "differing"), [(0.0, 0.04), (0.004, 0.05), (0.03, 0.06)])
def test_as_many_images_as_it_says_tell_in_four_of_five_runs(loss, differing):
    counts = [round(10000 * (differing + loss) / 2), round(10000 * (differing - loss) / 2)]
    images = round(images_to_tell(*counts, 10000, 0.01, 0.95))
    shares = (differing + loss) / 2, (differing - loss) / 2
    lost, won, _ = numpy.random.default_rng(0).multinomial(images, [*shares, 1 - sum(shares)], 4000).T
    tells = p_value(lost, won, images, 0.01) if loss < 0.01 else p_value(won, lost, images, -0.01)
    assert numpy.mean(tells <= 0.05) == pytest.approx(0.8, abs=0.04)


def test_the_smallest_margin_shrinks_with_images_and_grows_with_what_differs():
    # n = 7.85 d / m^2: with half of the 5 %, as the first of several files has.
    assert smallest_margin(10_000, 0.04, 0.95) == pytest.approx(0.0056, rel=0.03)
    assert smallest_margin(360, 0.02, 0.95) > 0.018 > smallest_margin(360, 0, 0.95)
    assert p_value(0, 0, 360, smallest_margin(360, 0, 0.95) + 1e-9) <= 0.025


@pytest.mark.parametrize(("images", "differing"), [(5, 0.05), (30, 0.02), (60, 0.05), (150, 0.02), (900, 0.02)])
def test_the_smallest_margin_of_few_images_passes_in_four_of_five_cases(images, differing):
    margin = smallest_margin(images, differing, 0.95)
    assert margin >= smallest_margin(images, 0, 0.95) - 1e-5
    shares = [differing / 2, differing / 2, 1 - differing]
    lost, won, _ = numpy.random.default_rng(0).multinomial(images, shares, 20_000).T
    assert numpy.mean(p_value(lost, won, images, margin + 2e-6) <= 0.025) >= 0.79
    assert numpy.mean(p_value(lost, won, images, margin - 1e-4) <= 0.025) <= 0.81


@pytest.mark.parametrize("margin", [0.01, 0.05, 0.139])
def test_so_many_images_certify_a_model_that_answers_as_the_reference(margin):
    images = images_to_certify(margin, 0.95)
    assert smallest_margin(images, 0, 0.95) < margin <= smallest_margin(images - 1, 0, 0.95)


def test_the_chance_to_pass_is_that_of_simulated_tests():
    random, shares, images, tested = numpy.random.default_rng(1), [0.025, 0.02, 0.955], 500, 2000
    chances, passed = [], []
    for share in random.dirichlet([501 * part for part in shares], 300):  # truths as 500 images leave them open
        lost, won, _ = random.multinomial(tested, share, 20).T
        passed.append(numpy.mean(p_value(lost, won, tested, 0.01) <= 0.05))
    lost, won = (numpy.array([share * images]) for share in shares[:2])
    chances = numpy.exp(log_chance_to_pass(lost, won, images, tested, 0.01, 0.05))
    assert chances[0] == pytest.approx(numpy.mean(passed), abs=0.05)
