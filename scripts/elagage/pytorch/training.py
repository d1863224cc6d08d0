"""Training: one loop for everything that learns, on images held in memory."""

import copy
import dataclasses
from collections.abc import Callable, Mapping

import torch
from torch import nn

from elagage.data import PreparedData, Split
from elagage.files import reading
from elagage.progress import progress
from elagage.pytorch.device import default_device, in_precision, to_channels_last
from elagage.pytorch.evaluation import evaluate
from elagage.pytorch.models import Normalize, copied
from elagage.pytorch.training_images import TrainingImages
from elagage.pytorch.training_loss import TrainingLoss, of_labels
from elagage.pytorch.training_state import TrainingState, random_state, set_random_state
from elagage.pytorch.trial_step import check_training
from elagage.schedules import Schedule, TrainingSettings


def validation_accuracy(row: Mapping[str, float]) -> float:
    """Score an epoch by the share of validation images that it classifies correctly."""
    return row["validation_accuracy"]


def hold_nothing(network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Let the optimizer change every parameter."""


def fit(
    network: nn.Module,
    data: PreparedData,
    settings: TrainingSettings,
    schedule: Schedule,
    *,
    seed: int,
    label: str,
    state: TrainingState,
    device: torch.device | None = None,
    constrain: Callable[[nn.Module, torch.optim.Optimizer], object] = hold_nothing,
    score: Callable[[Mapping[str, float]], float] = validation_accuracy,
    loss: TrainingLoss = of_labels,
) -> tuple[dict, list[dict]]:
    """Train the network, leave it as in its best epoch, in evaluation mode; return that epoch's row, and the history.

    The best has the highest score, the last wins of equally good ones: its learning rate was lower. The history has one
    row per epoch: epoch, learning_rate (at its start), train_loss, train_accuracy, validation_loss,
    validation_accuracy, best.

    settings: batches, momentum, weight decay and flips; schedule: epochs and learning rates; seed: of the order of the
    images; label: of the progress bar; device: unless stated the GPU, if there is one. `constrain` is called once,
    before a saved state is loaded, for hooks such as pruning.hold_zeros.

    `state` is saved after each epoch. A training that finds it resumes from there and, on the same kind of machine,
    ends with the same bytes as one that was never interrupted, if the network keeps all that it learns in its state
    dict. An epoch is evaluated by a new copy of the network with the state dict, as it is deployed. Raises UserError as
    check_training does, or if the loss is not finite.
    """
    device = device or default_device()
    # Sums of other threads are other sums: tools/compare_studies.py reads this line.
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device
    print(f"device={name} threads={torch.get_num_threads()}")
    run = _Run.start(network, data, settings, schedule, seed=seed, device=device, constrain=constrain, loss=loss)
    history, best = run.resume(state)
    with progress(schedule.epochs * len(data.train), " images", label) as advance:
        advance(len(history) * len(data.train))
        for epoch in range(len(history) + 1, schedule.epochs + 1):
            row = run.epoch(epoch, advance)
            print(_line(row))
            history.append(row)
            if score(row) == max(map(score, history)):
                best = epoch, copy.deepcopy(network.state_dict())
            state.save(run.states() | {"best": best, "history": history})
    best_epoch, best_state = best
    network.load_state_dict(best_state)
    network.eval()
    for row in history:
        row["best"] = row["epoch"] == best_epoch
    return history[best_epoch - 1], history


@dataclasses.dataclass(frozen=True)
class _Run:
    """A training with all that changes from step to step."""

    network: nn.Module
    untouched: nn.Module  # a copy that never runs, so that it keeps nothing of what it computes
    context: Callable  # of each step
    normalize: Normalize
    images: TrainingImages
    validation: Split
    schedule: Schedule
    device: torch.device
    precision: str | None
    loss: TrainingLoss
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    order: torch.Generator

    @classmethod
    def start(
        cls,
        network: nn.Module,
        data: PreparedData,
        settings: TrainingSettings,
        schedule: Schedule,
        *,
        seed: int,
        device: torch.device,
        constrain: Callable[[nn.Module, torch.optim.Optimizer], object],
        loss: TrainingLoss,
    ) -> "_Run":
        """Return a training before its first step, with the network and the images on the device."""
        to_channels_last(network, device)
        normalize = Normalize(data.dataset).to(device)
        flip = data.dataset.flip if settings.flip is None else settings.flip
        images = TrainingImages(data.train, settings.batch_size, flip, device)
        optimizer = torch.optim.SGD(
            network.parameters(),
            lr=1.0,  # which the scheduler multiplies
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            nesterov=settings.momentum > 0,
        )
        constrain(network, optimizer)
        return cls(
            network=network,
            untouched=copied(network),
            context=check_training(network, normalize, data.train.images, settings.precision),
            normalize=normalize,
            images=images,
            validation=data.validation,
            schedule=schedule,
            device=device,
            precision=settings.precision,
            loss=loss,
            optimizer=optimizer,
            scheduler=torch.optim.lr_scheduler.LambdaLR(
                optimizer, lambda step: schedule.learning_rate(step, images.steps)
            ),
            order=torch.Generator().manual_seed(seed),
        )

    def epoch(self, number: int, advance: Callable[[int], object]) -> dict:
        """Train for one epoch and return its row of the history, but for `best`."""
        row = {"epoch": number, "learning_rate": self.scheduler.get_last_lr()[0]}
        row["train_loss"], row["train_accuracy"] = self._train(advance)
        deployed = copied(self.untouched)
        deployed.load_state_dict(self.network.state_dict())
        row["validation_loss"], row["validation_accuracy"] = evaluate(
            deployed, self.normalize, self.validation, self.device
        )
        for loss in (row["train_loss"], row["validation_loss"]):
            self.schedule.check(loss, row["learning_rate"])
        return row

    def _train(self, advance: Callable[[int], object]) -> tuple[float, float]:
        """Take one step per batch; return the mean loss and the accuracy on the images as they were trained on."""
        self.network.train()
        loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        seen, previous = 0, None
        for images, labels in self.images.batches(self.order):
            with self.context():
                pixels = self.normalize(images).contiguous(memory_format=torch.channels_last)
                with in_precision(self.precision, images.device):
                    loss, logits = self.loss(self.network, pixels, labels)
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()
            self.optimizer.step()
            # Checked a step late: a GPU that is asked for a loss has nothing to do until the next step is prepared.
            if previous:
                self.schedule.check(previous[0].item(), previous[1])
            previous = loss.detach(), self.scheduler.get_last_lr()[0]
            self.scheduler.step()
            loss_sum += previous[0].double() * len(labels)
            correct += (logits.argmax(1) == labels).sum()
            seen += len(labels)
            advance(len(labels))
        return loss_sum.item() / seen, correct.item() / seen

    def states(self) -> dict:
        """Return all that a later process needs to go on as if it were this one."""
        resumable = {name: stateful.state_dict() for name, stateful in self._resumable().items()}
        return resumable | {"order": self.order.get_state(), "random": random_state()}

    def resume(self, state: TrainingState) -> tuple[list[dict], tuple[int, dict] | None]:
        """Go on from a saved state; return the history and the best epoch's number and weights so far, if any."""
        saved = state.load()
        if saved is None:
            return [], None
        with reading(state.path):
            for name, stateful in self._resumable().items():
                stateful.load_state_dict(saved[name])
            self.order.set_state(saved["order"])
            set_random_state(saved["random"])
            history, best = saved["history"], saved["best"]
        resumed = f"resumed after epoch {len(history)} of {self.schedule.epochs}"
        print(*map(_line, history), resumed, sep="\n")
        return history, best

    def _resumable(self) -> dict:
        return {"network": self.network, "optimizer": self.optimizer, "scheduler": self.scheduler}


def _line(row: Mapping[str, float]) -> str:
    return " ".join(f"{key}={value:.6g}" for key, value in row.items())
