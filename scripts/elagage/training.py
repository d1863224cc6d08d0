"""Training: one loop for everything that learns, on images held in memory."""

import copy
import dataclasses
import math
from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch.nn import functional

from elagage.data import Dataset, Split
from elagage.errors import UserError
from elagage.files import reading
from elagage.models import Normalize
from elagage.training_state import TrainingState, random_state, set_random_state

EVALUATION_BATCH = 500  # images; throughput is flat from 250 to 1,000


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """How to train: epochs, images a step, and the rates of SGD; fields are the keys of `training`."""

    epochs: int
    batch_size: int
    learning_rate: float
    momentum: float
    weight_decay: float
    warmup_epochs: float
    flip: bool | None  # None: as the data set suits


class TrainingImages:
    """Shuffled, randomly cropped and flipped batches from images that stay where they are (memory map or GPU)."""

    def __init__(self, split: Split, batch_size: int, flip: bool, device: torch.device):
        self.images = torch.from_numpy(split.images).to(device)
        self.labels = torch.from_numpy(split.labels).to(device)
        # Batches of nearly equal size: a last batch of one image would break batch normalization.
        self.steps = math.ceil(len(split) / batch_size)
        self.flip = flip

    def batches(self, generator: torch.Generator):
        """Yield one epoch of (uint8 images, int64 labels); every image is drawn once, in `generator`'s order."""
        order = torch.randperm(len(self.labels), generator=generator)
        for chosen in torch.tensor_split(order, self.steps):
            chosen = chosen.to(self.images.device)
            yield crop_and_flip(self.images[chosen], self.flip, generator), self.labels[chosen]


def crop_and_flip(images: torch.Tensor, flip: bool, generator: torch.Generator) -> torch.Tensor:
    """Shift each image by up to an eighth of its size (4 pixels of 32, He et al. 2016), zeros moving in; flip half.

    images: [n, channels, height, width], any dtype; the result has the same shape.
    """
    count, channels, height, width = images.shape
    pad = max(1, width // 8)
    rows = torch.randint(0, 2 * pad + 1, (count, 1), generator=generator) + torch.arange(height)
    columns = torch.randint(0, 2 * pad + 1, (count, 1), generator=generator) + torch.arange(width)
    if flip:
        mirrored = torch.rand(count, 1, generator=generator) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    padded = functional.pad(images, (pad, pad, pad, pad))
    device = images.device
    return padded[
        torch.arange(count, device=device)[:, None, None, None],
        torch.arange(channels, device=device)[None, :, None, None],
        rows.to(device)[:, None, :, None],
        columns.to(device)[:, None, None, :],
    ]


def default_device() -> torch.device:
    """Return the GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def make_deterministic() -> None:
    """Make the same seed give the same bytes on the same machine, in float32 (torch's notes on reproducibility)."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False  # rounds what convolutions of GPUs read to 10 bits; the ONNX file does not


def check_trainable(network: nn.Module) -> None:
    """Raise UserError if all parameters of the network are frozen."""
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise UserError(
            "no parameter has requires_grad, so there is nothing to train; give the model its weights, and leave out "
            "mode qat and all of pruning.recovery but none and batchnorm"
        )


def train_one_epoch(network, normalize, batches, optimizer, scheduler, check, advance) -> tuple[float, float]:
    """Take one step a batch; return the mean loss and the accuracy on the images as they were trained on.

    After each batch `check(loss, learning rate)` and `advance(images)` are called.
    """
    network.train()
    loss_sum = correct = seen = 0
    for images, labels in batches:
        # Not on CPUs: with avx512_bf16 a ResNet-20 trained 1.5 times as fast on an AMD EPYC, 0.74 times on a Xeon.
        with torch.autocast(images.device.type, torch.bfloat16, enabled=images.is_cuda):
            logits = network(normalize(images).contiguous(memory_format=torch.channels_last))
        loss = functional.cross_entropy(logits.float(), labels)
        check(loss.item(), scheduler.get_last_lr()[0])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        scheduler.step()
        loss_sum += loss.item() * len(labels)
        correct += (logits.argmax(1) == labels).sum().item()
        seen += len(labels)
        advance(len(labels))
    return loss_sum / seen, correct / seen


@torch.inference_mode()
def evaluate_images(
    network: nn.Module, normalize: Normalize, split: Split, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return, of every image, the loss, float64 [n], and whether its class is found, bool [n], in evaluation mode."""
    network.eval()
    losses, found = [], []
    for start in range(0, len(split), EVALUATION_BATCH):
        images = torch.from_numpy(split.images[start : start + EVALUATION_BATCH]).to(device)
        labels = torch.from_numpy(split.labels[start : start + EVALUATION_BATCH]).to(device)
        logits = network(normalize(images).contiguous(memory_format=torch.channels_last))
        losses.append(functional.cross_entropy(logits, labels, reduction="none").cpu())
        found.append((logits.argmax(1) == labels).cpu())
    return torch.cat(losses).double(), torch.cat(found)


def evaluate(network: nn.Module, normalize: Normalize, split: Split, device: torch.device) -> tuple[float, float]:
    """Return the mean loss and the accuracy of the network, in evaluation mode, on every image of the split."""
    losses, found = evaluate_images(network, normalize, split, device)
    assert len(found) == len(split), f"evaluated {len(found)} of {len(split)} images"
    return losses.mean().item(), found.sum().item() / len(split)


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


def validation_accuracy(row: Mapping[str, float]) -> float:
    """Score an epoch by the share of validation images that it gets right."""
    return row["validation_accuracy"]


def fit(
    network: nn.Module,
    dataset: Dataset,
    train: Split,
    validation: Split,
    settings: TrainingSettings,
    schedule: Schedule,
    seed: int,
    device: torch.device,
    state: TrainingState,
    advance: Callable[[int], None] = lambda images: None,
    constrain: Callable[[nn.Module, torch.optim.Optimizer], object] = lambda network, optimizer: None,
    score: Callable[[Mapping[str, float]], float] = validation_accuracy,
) -> tuple[dict, list[dict]]:
    """Train the network, leave it as in its best epoch, in evaluation mode; return that epoch's row, and the history.

    The best has the highest score, the last wins of equally good ones: its learning rate was lower. The history has one
    row an epoch: epoch, learning_rate (at its start), train_loss, train_accuracy, validation_loss, validation_accuracy,
    best.

    settings give batches, momentum, weight decay and flips; schedule the epochs and learning rates. `constrain` is
    called once, before a saved state is loaded, for hooks such as pruning.hold_zeros.

    `state` is saved after each epoch. A training that finds it goes on from there and, on the same kind of machine,
    ends with the same bytes as one that was never interrupted, if the network keeps all that it learns in its state
    dict. Raises UserError if there is nothing to train, or if the loss is not finite.
    """
    check_trainable(network)
    make_deterministic()
    print(f"device={torch.cuda.get_device_name(device) if device.type == 'cuda' else device}")
    network.to(device, memory_format=torch.channels_last)
    normalize = Normalize(dataset).to(device)
    generator = torch.Generator().manual_seed(seed)
    flip = dataset.flip if settings.flip is None else settings.flip
    images = TrainingImages(train, settings.batch_size, flip, device)
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=1.0,  # which the scheduler multiplies
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        nesterov=settings.momentum > 0,
    )
    constrain(network, optimizer)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule.learning_rate(step, images.steps))
    resumable = {"network": network, "optimizer": optimizer, "scheduler": scheduler}
    best, history = None, []
    if saved := state.load():
        with reading(state.path):
            for name, part in resumable.items():
                part.load_state_dict(saved[name])
            generator.set_state(saved["order"])
            set_random_state(saved["random"])
            best, history = saved["best"], saved["history"]
        print(*map(_line, history), f"taken up after epoch {len(history)} of {schedule.epochs}", sep="\n")
        advance(len(history) * len(train))
    for epoch in range(len(history) + 1, schedule.epochs + 1):
        row = {"epoch": epoch, "learning_rate": scheduler.get_last_lr()[0]}
        row["train_loss"], row["train_accuracy"] = train_one_epoch(
            network, normalize, images.batches(generator), optimizer, scheduler, schedule.check, advance
        )
        row["validation_loss"], row["validation_accuracy"] = evaluate(network, normalize, validation, device)
        schedule.check(row["validation_loss"], row["learning_rate"])
        print(_line(row))
        history.append(row)
        if score(row) == max(map(score, history)):
            best = epoch, copy.deepcopy(network.state_dict())
        states = {name: part.state_dict() for name, part in resumable.items()}
        states |= {"order": generator.get_state(), "random": random_state(), "best": best, "history": history}
        state.save(states)
    best_epoch, best_state = best
    network.load_state_dict(best_state)
    network.eval()
    for row in history:
        row["best"] = row["epoch"] == best_epoch
    return history[best_epoch - 1], history


def _line(row: Mapping[str, float]) -> str:
    return " ".join(f"{key}={value:.6g}" for key, value in row.items())
