"""Training: one loop for everything that learns, on images held in memory."""

import contextlib
import copy
import dataclasses
import functools
import math
import os
from collections.abc import Callable, Iterator, Mapping

import numpy
import torch
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from elagage.data import PreparedData, Split
from elagage.errors import UserError
from elagage.files import reading
from elagage.progress import progress
from elagage.pytorch.models import Normalize, copied, forward_pass
from elagage.pytorch.training_state import TrainingState, random_state, set_random_state

EVALUATION_BATCH = 500  # images; throughput is flat from 250 to 1,000
# Loss of each auxiliary head beside that of the logits: Szegedy et al. 2015, "Going Deeper with Convolutions", sec. 5.
AUXILIARY_WEIGHT = 0.3
NARROW = 16  # input channels: those of a vector of AVX-512. AVX2 has 8, and with 7 crashed here
TRIAL_IMAGES = 2  # of a step that only shows whether the network can be trained


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


class TrainingImages:
    """Shuffled, randomly cropped and flipped batches from images that stay where they are (memory map or GPU)."""

    def __init__(self, split: Split, batch_size: int, flip: bool, device: torch.device):
        self.images = torch.from_numpy(split.images).to(device)
        self.labels = torch.from_numpy(split.labels).to(device)
        # Batches of nearly equal size: a last batch of one image would break batch normalization.
        self.steps = math.ceil(len(split) / batch_size)
        self.flip = flip

    def batches(self, generator: torch.Generator):
        """Yield (uint8 images [n, channels, height, width], int64 labels [n]) until each image was drawn once."""
        order = torch.randperm(len(self.labels), generator=generator).to(self.images.device)
        for chosen in torch.tensor_split(order, self.steps):
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
    if images.is_cuda:  # from pinned memory, a copy does not wait for what the GPU still computes
        rows, columns = (indices.pin_memory().to(images.device, non_blocking=True) for indices in (rows, columns))
    padded = functional.pad(images, (pad, pad, pad, pad))
    return padded[
        torch.arange(count, device=images.device)[:, None, None, None],
        torch.arange(channels, device=images.device)[None, :, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]


def default_device() -> torch.device:
    """Return the GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def in_precision(precision: str | None, device: torch.device) -> torch.autocast:
    """Return the context of a forward pass in mixed precision, which does nothing for "float32".

    None, for which GPUs alone take bfloat16: a ResNet-20 trained 1.8 times as fast with it on an AMD EPYC with
    avx512_bf16, but 0.74 times on a Xeon.
    """
    bfloat16 = device.type == "cuda" if precision is None else precision == "bfloat16"
    return torch.autocast(device.type, torch.bfloat16, enabled=bfloat16)


def compute_reproducibly(threads: int) -> None:
    """Let this process use so many threads, at most one per core, and give the same bytes for the same seed.

    In float32, on the same kind of machine (https://docs.pytorch.org/docs/stable/notes/randomness.html). To be called
    before anything is computed.
    """
    torch.set_num_threads(min(threads, os.cpu_count() or 1))
    torch.compiler.set_stance("force_eager")  # each copy of a network that calls torch.compile would compile again
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # which cuBLAS reads in the first CUDA call
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False  # rounds what convolutions of GPUs read to 10 bits; the ONNX file does not


def check_trainable(network: nn.Module) -> None:
    """Raise UserError if all parameters of the network are frozen."""
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise UserError(
            "no parameter has requires_grad, so there is nothing to train; give the model its weights, and leave out "
            "mode qat and all of pruning.recovery but none, batchnorm and reconstruct"
        )


def mean_loss(outputs: object, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the loss, float32 [], of what a network returns in training mode, and its logits, [n, classes].

    outputs: logits, or a tuple of logits and those of auxiliary heads (None for a head that is switched off), as
    GoogLeNet and Inception return; labels: int64 [n]. The loss of each head counts AUXILIARY_WEIGHT. Raises UserError
    for anything else.
    """
    heads = outputs if isinstance(outputs, tuple | list) else [outputs]
    logits, *auxiliary = [head for head in heads if head is not None] or [None]
    for head in (logits, *auxiliary):
        if not isinstance(head, torch.Tensor) or head.dim() != 2 or head.shape != logits.shape:
            raise UserError(
                f"in training mode the network returned {_named(outputs)}, not logits [batch, classes], alone or first "
                f"in a tuple with those of auxiliary heads"
            )
    loss = functional.cross_entropy(logits.float(), labels)
    for head in auxiliary:
        loss = loss + AUXILIARY_WEIGHT * functional.cross_entropy(head.float(), labels)
    return loss, logits


def _named(outputs: object) -> str:
    if isinstance(outputs, torch.Tensor):
        return f"a tensor {tuple(outputs.shape)}"
    if isinstance(outputs, tuple | list):
        return f"a {type(outputs).__name__} of {', '.join(map(_named, outputs))}"
    return f"a {type(outputs).__name__}"


def check_training(
    network: nn.Module, normalize: Normalize, images: numpy.ndarray, precision: str | None = None
) -> Callable:
    """Return the context in which the network can be trained, after a trial step of a copy.

    images: uint8 [n, channels, height, width], of which the first are used; precision: of TrainingSettings. The
    context is contextlib.nullcontext, unless the network changes in place what its backward pass needs: then, one in
    which tensors are copied before they change. It does without oneDNN if the network has_narrow_convolution. Raises
    UserError if all parameters are frozen, if the forward or backward pass fails, or if the outputs are no logits.
    Random states stay as they were.
    """
    check_trainable(network)
    pixels = torch.from_numpy(images[:TRIAL_IMAGES]).to(normalize.mean.device)
    labels = torch.zeros(len(pixels), dtype=torch.int64, device=pixels.device)
    random, untouched = random_state(), copied(network)
    contexts = [contextlib.nullcontext, torch.autograd.graph.allow_mutation_on_saved_tensors]
    if not pixels.is_cuda and has_narrow_convolution(network, normalize(pixels)):
        contexts = [functools.partial(_without_onednn, context) for context in contexts]
    try:
        for context in contexts:
            trial = copied(untouched).train()
            with context():
                with forward_pass(pixels), in_precision(precision, pixels.device):
                    outputs = trial(normalize(pixels))
                loss, _ = mean_loss(outputs, labels)
                try:
                    loss.backward()
                    return context
                except RuntimeError as error:
                    failure = error
    finally:
        set_random_state(random)
    raise UserError(
        f"the network's backward pass raised {type(failure).__name__}: {failure}; all between the parameters and the "
        f"logits has to have gradients"
    ) from failure


class _NarrowConvolutions(TorchDispatchMode):
    """Notes whether an operator is a 1x1 convolution with a stride, of few channels."""

    found = False

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        if function is torch.ops.aten.convolution.default:
            weight, stride, groups = arguments[1], arguments[3], arguments[8]
            kernel = weight.shape[2:]
            self.found |= max(kernel) == 1 and max(stride) > 1 and groups == 1 and weight.shape[1] < NARROW
        return function(*arguments, **(keywords or {}))


@torch.no_grad()
def has_narrow_convolution(network: nn.Module, pixels: torch.Tensor) -> bool:
    """Return whether PyTorch 2.14 may write beyond the gradient of a weight while the network trains on a CPU.

    Which kills the process, or worse. oneDNN does so in the backward pass of 1x1 convolutions with a stride and few
    input channels, if tensors lie channels last in memory. RepVGG begins with one, and pruning by channels may leave
    one in a ResNet's shortcut. True also of networks that cannot be watched. pixels: float32 [n, channels, height,
    width].
    """
    random = random_state()
    try:
        with _NarrowConvolutions() as convolutions:
            copied(network).train()(pixels.clone())
    except Exception:  # a trial of the network tells what else there is to tell
        return True
    finally:
        set_random_state(random)
    return convolutions.found


@contextlib.contextmanager
def _without_onednn(context: Callable) -> Iterator[None]:
    """PyTorch's own convolutions: a RepVGG trains 1.8 times as long with them, small networks no longer."""
    with torch.backends.mkldnn.flags(enabled=False), context():
        yield


@torch.inference_mode()
def evaluate_images(
    network: nn.Module, normalize: Normalize, split: Split, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return, of every image, the loss, float64 [n], and whether it is classified correctly, bool [n].

    The network is put into evaluation mode.
    """
    network.eval()
    losses, correct = [], []
    for start in range(0, len(split), EVALUATION_BATCH):
        images = torch.from_numpy(split.images[start : start + EVALUATION_BATCH]).to(device)
        labels = torch.from_numpy(split.labels[start : start + EVALUATION_BATCH]).to(device)
        logits = network(normalize(images).contiguous(memory_format=torch.channels_last))
        losses.append(functional.cross_entropy(logits, labels, reduction="none").cpu())
        correct.append((logits.argmax(1) == labels).cpu())
    return torch.cat(losses).double(), torch.cat(correct)


def evaluate(network: nn.Module, normalize: Normalize, split: Split, device: torch.device) -> tuple[float, float]:
    """Return the mean loss and the accuracy of the network, in evaluation mode, on every image of the split."""
    losses, correct = evaluate_images(network, normalize, split, device)
    assert len(correct) == len(split), f"evaluated {len(correct)} of {len(split)} images"
    return losses.mean().item(), correct.sum().item() / len(split)


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
    run = _Run.start(network, data, settings, schedule, seed=seed, device=device, constrain=constrain)
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
    ) -> "_Run":
        """Return a training before its first step, with the network and the images on the device."""
        network.to(device, memory_format=torch.channels_last)
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
                with in_precision(self.precision, images.device):
                    outputs = self.network(self.normalize(images).contiguous(memory_format=torch.channels_last))
                loss, logits = mean_loss(outputs, labels)
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
