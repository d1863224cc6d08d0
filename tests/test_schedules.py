"""How the learning rate moves, in training and in each recovery that trains."""

import math
import pathlib

import pytest
import yaml
from trainings import settings

from elagage.plan import WITHOUT_TRAINING
from elagage.schedules import SCHEDULES, finetune, rewind, warmup_and_cosine

HALF_COSINE = [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2, 0]  # of 0, 45, 90, 135, 180 degrees


@pytest.mark.parametrize(
    "warmup, steps, rates",
    [
        (0, 4, HALF_COSINE),
        (1, 5, [0.5, *HALF_COSINE]),
        (3, 7, [0.25, 0.5, 0.75, *HALF_COSINE]),
        (0, 1, [1, 0]),
        (3, 3, [0.25, 0.5, 0.75, 1]),
        (7, 3, [1 / 8, 2 / 8, 3 / 8]),  # training ends before the warm-up
    ],
)
def test_the_learning_rate_rises_linearly_and_falls_along_half_a_cosine(warmup, steps, rates):
    schedule = warmup_and_cosine(settings(epochs=steps, warmup_epochs=warmup, learning_rate=0.3))
    assert schedule.epochs == steps
    seen = [schedule.learning_rate(step, 1) for step in range(len(rates))]
    assert seen == pytest.approx([0.3 * rate for rate in rates])


SIX = settings(epochs=6)


def test_rewinding_repeats_the_learning_rates_of_the_last_epochs():
    training, rewound = warmup_and_cosine(SIX), rewind(SIX, epochs=2)
    assert rewound.epochs == 2
    last = [training.learning_rate(step, 5) for step in range(4 * 5, 6 * 5)]
    assert [rewound.learning_rate(step, 5) for step in range(2 * 5)] == last


def test_rewinding_all_epochs_is_the_whole_training():
    training, rewound = warmup_and_cosine(SIX), rewind(SIX, epochs=6)
    rates = [[schedule.learning_rate(step, 5) for step in range(30)] for schedule in (training, rewound)]
    assert rates[0] == rates[1]


def test_fine_tuning_keeps_one_learning_rate():
    schedule = finetune(SIX, epochs=4, learning_rate=0.02)
    assert schedule.epochs == 4
    assert [schedule.learning_rate(step, 5) for step in range(20)] == [0.02] * 20


def test_every_recovery_of_the_schema_is_known():
    schema = yaml.safe_load((pathlib.Path(__file__).parent.parent / "workflow/schemas/config.schema.yaml").read_text())
    allowed = schema["properties"]["pruning"]["properties"]["recovery"]["items"]["enum"]
    assert set(allowed) == {*WITHOUT_TRAINING, *SCHEDULES}
