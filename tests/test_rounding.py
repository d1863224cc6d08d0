"""Weights are rounded to few levels so that outputs change least, and nothing pruned comes back."""

import itertools

import numpy
import pytest

from elagage.rounding import round_weight


def problem(outputs=6, inputs=20, seed=0):
    """Return a weight, [1, outputs, inputs], and the mean products of inputs that depend on each other."""
    generator = numpy.random.default_rng(seed)
    mixed = generator.normal(size=(500, 4)) @ generator.normal(size=(4, inputs)) + 0.3 * generator.normal(
        size=(500, inputs)
    )
    weight = generator.normal(size=(1, outputs, inputs)).astype(numpy.float32)
    return weight, (mixed.T @ mixed / 500).astype(numpy.float32)[None]


def error(weight, rounded, products):
    """Return the mean squared error of each output, [groups, outputs]."""
    change = (weight - rounded.weight).astype(numpy.float64)
    return ((change @ products) * change).sum(2)


@pytest.mark.parametrize("largest", [3, 7])
def test_levels_are_whole_and_few_and_outputs_are_nearer_than_with_the_nearest_levels(largest):
    weight, products = problem()
    rounded, nearest = round_weight(weight, products, largest), round_weight(weight, None, largest)
    assert (rounded.levels == rounded.levels.round()).all()
    assert abs(rounded.levels).max() <= largest
    assert (rounded.scales > 0).all()
    assert error(weight, rounded, products).sum() < 0.3 * error(weight, nearest, products).sum()


def test_no_level_by_itself_could_be_better():
    weight, products = problem(outputs=3, inputs=9)
    rounded = round_weight(weight, products, 3)
    # The levels were chosen before the last scale: a little room is left.
    found = error(weight, rounded, products)
    for output, place, level in itertools.product(range(3), range(9), range(-3, 4)):
        changed = rounded._replace(levels=rounded.levels.copy())
        changed.levels[0, output, place] = level
        assert error(weight, changed, products)[0, output] > 0.8 * found[0, output]


def test_the_levels_of_one_row_are_nearly_the_best_of_all():
    weight, products = problem(outputs=1, inputs=6)
    rounded = round_weight(weight, products, 1)
    every = numpy.array([*itertools.product((-1, 0, 1), repeat=6)], dtype=numpy.float32)
    every = every[every.any(1)]
    square = ((every @ products[0]) * every).sum(1)
    wanted = every @ products[0] @ weight[0, 0]
    lowest = float(weight[0, 0] @ products[0] @ weight[0, 0]) - (wanted**2 / square).max()
    assert lowest <= error(weight, rounded, products)[0, 0] + 1e-5
    assert error(weight, rounded, products)[0, 0] < 2 * lowest


def test_what_is_pruned_stays_zero_and_a_row_of_zeros_is_harmless():
    weight, products = problem()
    weight[:, :, ::2] = 0
    weight[:, 3] = 0
    rounded = round_weight(weight, products, 7)
    assert (rounded.levels[weight == 0] == 0).all()
    assert numpy.isfinite(rounded.scales).all() and (rounded.scales > 0).all()
    # Or the bias of the row would be rounded to levels as far apart as those of the inputs.
    assert rounded.scales[0, 3] < 1e-4


def test_inputs_that_never_vary_do_no_harm():
    weight, products = problem()
    products[:, 5] = products[:, :, 5] = 0
    rounded = round_weight(weight, products, 7)
    assert numpy.isfinite(rounded.weight).all()
    assert abs(rounded.weight - weight).max() < 4 * abs(weight).max()
    nothing = round_weight(weight, numpy.zeros_like(products), 7)
    assert numpy.isfinite(nothing.weight).all()


def test_products_of_few_positions_count_less():
    weight, products = problem()
    sure, unsure, nearest = (
        round_weight(weight, *given) for given in ((products, 7, 1e6), (products, 7, 1), (None, 7))
    )
    differ = [(each.levels != nearest.levels).mean() for each in (sure, unsure)]
    assert differ[1] < differ[0]


def test_groups_are_rounded_each_by_its_own_inputs():
    both = [problem(seed=seed) for seed in (1, 2)]
    weight, products = (numpy.concatenate(each) for each in zip(*both, strict=True))
    together = round_weight(weight, products, 7)
    for group, (alone, own) in enumerate(both):
        assert (together.levels[group] == round_weight(alone, own, 7).levels[0]).all()


def test_blocks_of_inputs_give_what_one_block_gives(monkeypatch):
    weight, products = problem(inputs=50)
    whole = round_weight(weight, products, 7)
    monkeypatch.setattr("elagage.rounding.BLOCK", 7)
    assert error(weight, round_weight(weight, products, 7), products).sum() == pytest.approx(
        error(weight, whole, products).sum(), rel=0.02
    )
