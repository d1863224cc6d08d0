"""Which files are certified: the order, the shares of the level, and how often an answer is wrong."""

import pathlib
import sys

import numpy
import pytest

from elagage.certification import cheapest, front, levels, sequence, shares

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "benchmarks"))

from answer import RULES, TRUTHS, simulate, wrong_interval


def test_the_front_has_no_file_that_a_cheaper_one_equals():
    chances, costs = numpy.array([0.9, 0.5, 0.5, 0.7, 0.2]), numpy.array([4.0, 1.0, 2.0, 3.0, 3.5])
    assert front(chances, costs) == [1, 3, 0]
    assert front(numpy.array([0.5, 0.5]), numpy.array([1.0, 1.0])) == [0]


def test_only_what_is_cheaper_than_the_reference_is_tested_the_likeliest_first():
    chances = numpy.array([0.99, 0.9, 0.5, 0.8])
    costs = {"file_size": numpy.array([1.0, 0.6, 0.3, 2.0]), "time": numpy.array([1.5, 1.2, 1.1, 0.9])}
    costs = {name: numpy.stack([cost, cost, 1.05 * cost], 1) for name, cost in costs.items()}
    assert sequence(chances, costs, {"file_size": 1.0, "time": 1.0}) == [1, 3, 2]
    # What is faster by less than its interval is not cheaper.
    assert sequence(chances, costs, {"file_size": 0.1, "time": 0.94}) == []
    assert sequence(chances, costs, {"file_size": 0.1, "time": 0.1}) == []


@pytest.mark.parametrize("count", [1, 2, 7])
def test_the_shares_of_the_level_add_up_to_it(count):
    assert sum(shares(count, 0.05)) == pytest.approx(0.05)
    assert shares(0, 0.05) == []


def test_a_file_that_passes_hands_its_level_on_and_one_that_fails_does_not():
    assert levels([0.0, 0.0, 0.0], 0.04) == [0.02, 0.03, 0.04]
    assert levels([0.0, 0.9, 0.0], 0.04) == [0.02, 0.03, 0.01]
    assert levels([0.9, 0.9, 0.9], 0.04) == [0.02, 0.01, 0.01]


def test_of_equal_costs_the_more_accurate_file_is_taken():
    cost, accuracy = numpy.array([1.0, 1.005, 1.02, 1.5]), numpy.array([0.90, 0.91, 0.99, 0.99])
    assert cheapest(cost, cost, cost, accuracy) == 1
    wide = cost * 0.97, cost, cost * 1.03
    assert cheapest(*wide, accuracy) == 2


@pytest.mark.slow
@pytest.mark.parametrize("truth", TRUTHS)
@pytest.mark.parametrize("images", [300, 10_000])
def test_an_answer_is_wrong_in_no_more_than_5_of_100_studies(truth, images):
    found = simulate(TRUTHS[truth], images, 300)
    assert set(found) == set(RULES)
    assert wrong_interval(found["Elagage"])[0] <= 0.05
    assert wrong_interval(found["point estimate"])[0] > 0.05  # so that the studies are hard enough
    assert found["Elagage"].covered.mean() > 0.92
