"""How to train: settings, and learning rates step by step of training and of each recovery that trains."""

import dataclasses
import math
from collections.abc import Callable

from elagage.errors import UserError


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """How to train with SGD; the fields are the keys of `training`."""

    epochs: int
    batch_size: int
    learning_rate: float
    momentum: float
    weight_decay: float
    warmup_epochs: float
    flip: bool | None  # None: as the data set suits
    precision: str | None = None  # "float32" or "bfloat16" (mixed); None: bfloat16 on a GPU


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How long to train and how fast.

    learning_rate: (step, steps of an epoch) -> learning rate of that step, counted from 0. key: the setting that
    decides it, for errors.
    """

    epochs: int
    learning_rate: Callable[[int, int], float]
    key: str = "training.learning_rate"

    def check(self, loss: float, learning_rate: float) -> None:
        """Raise UserError if the loss is not a finite number."""
        if not math.isfinite(loss):
            warmup = " or lengthen training.warmup_epochs" if self.key == "training.learning_rate" else ""
            raise UserError(
                f"{self.key}: the loss became {loss} at a learning rate of {learning_rate:.3g}; "
                f"lower {self.key}{warmup}"
            )


def warmup_and_cosine(settings: TrainingSettings) -> Schedule:
    """Return a linear rise, then half a cosine down to zero, step by step.

    Goyal et al. 2017 (warm-up); Loshchilov and Hutter 2017 (cosine).
    """

    def learning_rate(step: int, epoch_steps: int) -> float:
        warmup, steps = round(settings.warmup_epochs * epoch_steps), settings.epochs * epoch_steps
        if step < warmup:
            return settings.learning_rate * (1 + step) / (1 + warmup)
        return settings.learning_rate * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup))) / 2

    return Schedule(settings.epochs, learning_rate)


def finetune(settings: TrainingSettings, epochs: int, learning_rate: float) -> Schedule:
    """Return a constant learning rate, a low one (Han et al. 2015; Renda et al. 2020, section 3)."""
    return Schedule(epochs, lambda step, epoch_steps: learning_rate, "retraining.learning_rate")


def rewind(settings: TrainingSettings, epochs: int) -> Schedule:
    """Return the learning rates of the last `epochs` of the training (learning-rate rewinding, Renda et al. 2020).

    "Comparing Rewinding and Fine-tuning in Neural Network Pruning", https://arxiv.org/abs/2003.02389.
    """
    training = warmup_and_cosine(settings)
    skipped = training.epochs - epochs
    return dataclasses.replace(
        training,
        epochs=epochs,
        learning_rate=lambda step, epoch_steps: training.learning_rate(step + skipped * epoch_steps, epoch_steps),
    )


# Each takes the settings of the training and of the recovery, and returns the schedule. A step of `iterative` is a
# rewinding (algorithm 2 of Renda et al. 2020); what differs is the model that it starts from.
SCHEDULES: dict[str, Callable[..., Schedule]] = {"finetune": finetune, "rewind": rewind, "iterative": rewind}
