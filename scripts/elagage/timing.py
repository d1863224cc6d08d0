"""Time per call of several models, so that it can be compared: in balanced turns, over several loads of each model.

The same file loaded twice can differ by several percent in speed, as its weights lie elsewhere in memory, and the place
in a turn matters on a busy machine. So a load is the unit of every interval, and each model has every place as often.
"""

import itertools
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy

LOADS = 10  # of each model, over which the images are divided
# Calls after each load that are not counted. Of a ResNet-8 of 0.05 ms the first takes 1.6 times as long as later ones,
# the third 1.02 times, the tenth 1.005 times.
WARM_UP = 10
LEAST_CALLS = 2  # that are counted of each load
# Calls of one model before the next takes its turn: long enough that most find the weights in the cache again, as they
# would in use, and short enough that a disturbance of the machine meets all models.
TURN = 10
# Share of the machine's CPU time that others take, above which the user is told. The interval of a ResNet-8's speed-up
# reaches 0.6 % to each side on two idle cores, of whose time others take 0 %, and 0.8 to 1.2 % where they take 70 %.
BUSY = 0.1

Call = Callable[[numpy.ndarray], object]  # uint8 [n, channels, height, width] -> logits


def timing_again(*rules: str) -> str:
    """Return the end of a command that makes the jobs of these rules run again."""
    forced = f"--forcerun {' '.join(rules)}"
    return f"{forced} (of make with ARGS='{forced}')"


class Clocks(NamedTuple):
    """Two clocks in ns: of the wall, and of the CPU time that all threads of this process take."""

    wall: Callable[[], int] = time.perf_counter_ns
    cpu: Callable[[], int] = time.process_time_ns


CLOCKS = Clocks()


class Times(NamedTuple):
    """What each call of a model took, in ns: int64 [LOADS, calls]. Calls of the same index had the same images."""

    wall: numpy.ndarray
    cpu: numpy.ndarray

    def as_json(self) -> dict[str, list]:
        """Return them as a JSON file holds them."""
        return {"wall_ns": self.wall.tolist(), "cpu_ns": self.cpu.tolist()}


def balanced_orders(count: int) -> list[list[int]]:
    """Return orders of range(count) that have each number at each place equally often (Williams 1949).

    Each number follows each other number equally often, too.
    """
    zigzag = [-(place // 2) % count if place % 2 == 0 else place // 2 + 1 for place in range(count)]
    square = [[(number + shift) % count for number in zigzag] for shift in range(count)]
    return square if count % 2 == 0 else square + [order[::-1] for order in square]


def turn_orders(names: Sequence[str], generator: random.Random) -> Iterator[list[str]]:
    """Yield the order of the names in each turn, without end: all balanced orders, then again, shuffled each time."""
    orders = balanced_orders(len(names))
    while True:
        generator.shuffle(orders)
        yield from ([names[index] for index in order] for order in orders)


def time_in_turns(
    load: Mapping[str, Callable[[], Call]],
    images: numpy.ndarray,
    batch_size: int = 1,
    *,
    seed: int = 0,
    clocks: Clocks = CLOCKS,
) -> dict[str, Times]:
    """Return the times of each model on batches of the images: all of them once or, of few images, several times.

    load: name -> function that loads the model anew. images: uint8 [n, channels, height, width]. All models are loaded
    and take turns in one process, so that their times are paired; then they are freed, and loaded anew in another
    order. `seed` decides the orders.
    """
    generator = random.Random(seed)
    orders = turn_orders(list(load), generator)
    calls = max(LEAST_CALLS, -(-len(images) // (LOADS * batch_size)))
    indices = numpy.arange(LOADS * calls * batch_size).reshape(LOADS, calls, batch_size) % len(images)
    rounds = []
    for batches in indices:
        shuffled = dict(generator.sample(list(load.items()), len(load)))
        rounds.append(_time_one_load(shuffled, images, batches, orders, clocks))
    return {name: Times(*numpy.stack([of_load[name] for of_load in rounds], axis=1)) for name in load}


def _time_one_load(
    load: Mapping[str, Callable[[], Call]],
    images: numpy.ndarray,
    batches: numpy.ndarray,
    orders: Iterator[list[str]],
    clocks: Clocks,
) -> dict[str, numpy.ndarray]:
    """Load the models in the order of `load`, and return the times of each, int64 [2, calls]: wall and CPU.

    batches: int64 [calls, batch_size], indices of images. What was loaded is freed at the end.
    """
    models = {name: load_model() for name, load_model in load.items()}
    for model in models.values():
        for call in range(-(-WARM_UP // batches.shape[1])):
            model(images[batches[call % len(batches)]])
    times = {name: numpy.empty((2, len(batches)), numpy.int64) for name in models}
    for start in range(0, len(batches), TURN):
        for name in next(orders):
            for call in range(start, min(start + TURN, len(batches))):
                times[name][:, call] = _timed(models[name], images[batches[call]], clocks)
    return times


def _timed(model: Call, batch: numpy.ndarray, clocks: Clocks) -> tuple[int, int]:
    cpu, wall = clocks.cpu(), clocks.wall()  # the clock of the wall inside: reading the other one takes a microsecond
    model(batch)
    wall = clocks.wall() - wall
    return wall, clocks.cpu() - cpu


class OtherWork:
    """What other processes take of the machine's CPU time from now on, as Linux counts it."""

    def __init__(self, stat: str | os.PathLike = "/proc/stat", own: Callable[[], float] = time.process_time):
        self._stat, self._own = stat, own
        self._start = self._read()

    def share(self) -> float | None:
        """Return it as a share of the CPU time of all cores, from 0 to 1; None where there is no such file."""
        if self._start is None or (now := self._read()) is None:
            return None
        busy, total = (end - start for start, end in zip(self._start, now, strict=True))
        return min(1.0, max(0.0, busy / total)) if total > 0 else 0.0

    def _read(self) -> tuple[float, float] | None:
        """Return the seconds that others took, and those of all cores, since the machine started."""
        if not os.path.exists(self._stat):
            return None
        with open(self._stat) as file:
            # user, nice, system, idle, iowait, irq, softirq, steal; what follows is counted in user and nice
            ticks = [int(number) for number in itertools.islice(file.readline().split(), 1, 9)]
        seconds = [number / os.sysconf("SC_CLK_TCK") for number in ticks]
        return sum(seconds) - sum(seconds[3:5]) - self._own(), sum(seconds)
