"""Timing: turns and loads are balanced, and intervals contain the truth on a machine that disturbs them (simulated)."""

import collections
import gc
import itertools
import random
import weakref

import numpy
import pytest
import scipy.stats

import elagage.timing
from elagage.statistics import loads_interval
from elagage.timing import LOADS, TURN, WARM_UP, Clocks, OtherWork, balanced_orders, time_in_turns, turn_orders

RUNS = 200  # of a simulated timing


class Machine:
    """A simulated machine whose clock moves only when a model runs.

    Loads of a model differ by 3 %, and its last turn before all others had theirs is 4 % faster. Now and then another
    program slows the machine down by a half, for 30 ms.
    """

    def __init__(self, seed: int, models: int):
        self.generator, self.models = random.Random(seed), models
        self.now = self.cpu = 0.0  # ns
        self.next_burst = self.generator.expovariate(1 / 2e8)
        self.stretch, self.ran = ["", 0], set()

    def loader(self, name: str, ns: float):
        """Return a function that loads a model which takes so long per image."""

        def load():
            of_load = ns * numpy.exp(self.generator.gauss(0, 0.03))
            return lambda batch: self.run(name, len(batch) * of_load)

        return load

    def run(self, name: str, ns: float) -> None:
        """Let a model run."""
        if name != self.stretch[0] or self.stretch[1] == TURN:
            self.stretch = [name, 0]
            self.ran = {name} if name in self.ran else self.ran | {name}
        self.stretch[1] += 1
        ns *= self.generator.gauss(1, 0.005) * (0.96 if len(self.ran) == self.models else 1)
        self.cpu += ns
        if self.now > self.next_burst + 3e7:
            self.next_burst = self.now + self.generator.expovariate(1 / 2e8)
        self.now += ns * (1.5 if self.now > self.next_burst else 1)

    @property
    def clocks(self) -> Clocks:
        return Clocks(lambda: round(self.now), lambda: round(self.cpu))


def one_load_in_a_fixed_order(load, images, clock) -> dict[str, numpy.ndarray]:
    """Time as `time_in_turns` would without loads and orders: int64 [n]."""
    models = {name: load_model() for name, load_model in load.items()}
    times = {name: [] for name in load}
    for start in range(0, len(images), TURN):
        for name, model in models.items():
            for image in images[start : start + TURN]:
                before = clock()
                model(image[None])
                times[name].append(clock() - before)
    return {name: numpy.array(ns) for name, ns in times.items()}


def images(count: int) -> numpy.ndarray:
    """Return images that hold their own number."""
    return numpy.arange(count, dtype=numpy.uint16).reshape(-1, 1, 1, 1)


def covered(intervals: list[tuple[float, float]], truth: float) -> float:
    """Return how probable it is that 95 % intervals contain the truth as seldom as these."""
    hits = sum(low <= truth <= high for low, high in intervals)
    return scipy.stats.binomtest(hits, len(intervals), 0.95, alternative="less").pvalue


@pytest.mark.parametrize(("names", "truth"), [("ab", 1.0), ("abc", 1.25)])
def test_the_interval_contains_the_true_speedup_in_95_of_100_runs(names, truth):
    new, old = [], []
    for seed in range(RUNS):
        machine = Machine(seed, len(names))
        load = {name: machine.loader(name, 2e5 / (truth if name == names[-1] else 1)) for name in names}
        times = time_in_turns(load, images(200), seed=seed, clocks=machine.clocks)
        new.append(loads_interval(numpy.median(times["a"].wall / times[names[-1]].wall, axis=1))[1:])
        fixed = one_load_in_a_fixed_order(load, images(200), machine.clocks.wall)
        ratio = fixed["a"] / fixed[names[-1]]
        old.append(scipy.stats.quantile_test(ratio, p=0.5).confidence_interval(0.95))
    assert covered(new, truth) > 0.01
    assert covered(old, truth) < 1e-9  # the simulated machine is one on which a timing can fail
    assert numpy.median([high - low for low, high in new]) < 0.15 * truth  # not by being wide


def test_each_image_is_timed_once_with_every_load_in_turns():
    calls = collections.defaultdict(list)
    count = LOADS * 3 * TURN

    def loader(name):
        def load():
            calls[name].append([])
            return lambda batch: calls[name][-1].append(int(batch[0, 0, 0, 0]))

        return load

    times = time_in_turns({name: loader(name) for name in "abc"}, images(count))
    for name in "abc":
        assert times[name].wall.shape == times[name].cpu.shape == (LOADS, 3 * TURN)
        assert (times[name].wall >= 0).all() and (times[name].cpu >= 0).all()
        assert len(calls[name]) == LOADS
        counted = [image for of_load in calls[name] for image in of_load[WARM_UP:]]
        assert counted == list(range(count))


@pytest.mark.parametrize(("count", "size"), [(1, 1), (19, 1), (101, 1), (1, 8), (50, 8), (500, 8)])
def test_every_image_is_timed_in_batches_of_the_size_asked_for(count, size):
    seen = []
    times = time_in_turns({"a": lambda: seen.append}, images(count), size)
    assert times["a"].wall.shape[0] == LOADS and times["a"].wall.shape[1] >= 2
    assert {len(batch) for batch in seen} == {size}
    assert set(numpy.unique(numpy.concatenate(seen))) == set(range(count))


def test_models_are_loaded_in_changing_order_and_freed_before_they_are_loaded_anew():
    alive, order = weakref.WeakSet(), []

    class Model:
        def __call__(self, batch):
            assert sorted(order[-3:]) == ["a", "b", "c"]

    def load(name):
        if len(order) % 3 == 0:
            assert not alive
        order.append(name)
        model = Model()
        alive.add(model)
        return model

    gc.disable()  # freed at once, not when the collector comes
    try:
        time_in_turns({name: lambda name=name: load(name) for name in "abc"}, images(20))
    finally:
        gc.enable()
    rounds = {tuple(order[start : start + 3]) for start in range(0, len(order), 3)}
    assert len(order) == 3 * LOADS
    assert len(rounds) > 2


@pytest.mark.parametrize("count", range(1, 8))
def test_orders_have_each_number_at_each_place_and_after_each_other_equally_often(count):
    orders = balanced_orders(count)
    assert all(sorted(order) == list(range(count)) for order in orders)
    places = collections.Counter(pair for order in orders for pair in enumerate(order))
    assert set(places.values()) == {len(orders) // count} and len(places) == count**2
    neighbours = collections.Counter(pair for order in orders for pair in itertools.pairwise(order))
    assert len(neighbours) == count * (count - 1)
    assert len(set(neighbours.values())) <= 1


def test_the_orders_of_turns_go_on_without_end_and_are_those_of_the_seed():
    def first(seed):
        return list(itertools.islice(turn_orders("abcd", random.Random(seed)), 40))

    assert first(0) == first(0) != first(1)
    assert {order.index("a") for order in first(0)[:4]} == {0, 1, 2, 3}  # each place once in each four turns
    assert first(0)[:4] != first(0)[4:8]


def stat(user: int, idle: int, steal: int = 0) -> str:
    """Return the first lines of /proc/stat, in ticks; the guest's 70 are counted in user, too."""
    return f"cpu  {user} 0 0 {idle} 0 0 0 {steal} 70 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n"


@pytest.mark.parametrize(
    ("user", "idle", "steal", "own", "share"),
    [
        (100, 300, 0, 1.0, 0.0),  # only this process ran, on one of four cores
        (200, 200, 0, 1.0, 0.25),
        (100, 200, 100, 1.0, 0.25),  # another virtual machine
        (100, 300, 0, 1.02, 0.0),  # the two clocks differ
        (0, 0, 0, 0.0, 0.0),  # no tick yet
    ],
)
def test_what_other_processes_take_is_all_that_this_one_does_not(tmp_path, monkeypatch, user, idle, steal, own, share):
    monkeypatch.setattr(elagage.timing.os, "sysconf", lambda name: 100)
    (tmp_path / "stat").write_text(stat(5000, 7000, 10))
    clock = iter([3.0, 3.0 + own])
    others = OtherWork(tmp_path / "stat", lambda: next(clock))
    (tmp_path / "stat").write_text(stat(5000 + user, 7000 + idle, 10 + steal))
    assert others.share() == pytest.approx(share)


def test_a_system_without_that_count_has_no_share(tmp_path):
    assert OtherWork(tmp_path / "missing").share() is None
