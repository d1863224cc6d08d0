"""Training: how the optimizer follows its schedule, which epoch is kept, what an interruption changes."""

import contextlib
import dataclasses
import itertools
import math
import pathlib
import random
import tempfile

import numpy
import pytest
import torch
from interruption import Killed
from networks import Auxiliary, InPlace
from torch import nn
from trainings import CPU, GREY, SETTINGS, Drawing, linear, random_split, separable, settings, state_bytes

from elagage.data import Dataset, PreparedData, Split
from elagage.errors import UserError
from elagage.pytorch.evaluation import evaluate
from elagage.pytorch.models import Normalize, build_network
from elagage.pytorch.training import fit
from elagage.pytorch.training_state import TrainingState
from elagage.schedules import Schedule, warmup_and_cosine

NUMBERS = itertools.count()
EPOCHS, STEPS = 3, 3  # of the trainings that are interrupted


def learn(network, train, validation, chosen, *, dataset=GREY, **options) -> tuple[dict, list[dict]]:
    """Train as the rule `train` does; return the state dict that the network is left with, and the history."""
    options = {"seed": 0, "label": "train", "state": fresh(), "device": CPU} | options
    data, schedule = PreparedData(dataset, train, validation), warmup_and_cosine(chosen)
    best, history = fit(network, data, chosen, schedule, **options)
    assert [row for row in history if row["best"]] == [best]
    return network.state_dict(), history


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def fresh() -> TrainingState:
    """Return the state of a training that nothing has interrupted."""
    return TrainingState(pathlib.Path(f"{next(NUMBERS)}.pt"), {})


def test_normalized_pixels_count_deviations_from_the_mean_of_their_channel():
    dataset = Dataset("toy", [], 2, 1, [0.5, 0.2], [0.5, 0.1], False, {}, {})
    images = torch.tensor([[[[255]], [[51]]], [[[0]], [[102]]]], dtype=torch.uint8)
    torch.testing.assert_close(Normalize(dataset)(images).flatten(1), torch.tensor([[1.0, 0.0], [-1.0, 2.0]]))


def test_the_optimizer_follows_the_schedule_step_by_step():
    rates = []

    def record(network, optimizer):
        optimizer.register_step_pre_hook(lambda *_: rates.append(optimizer.param_groups[0]["lr"]))

    split = separable(32)  # 4 steps per epoch
    data, schedule = PreparedData(GREY, split, split), Schedule(3, lambda step, steps: 0.01 * steps + step)
    options = {"seed": 0, "label": "train", "state": fresh(), "device": CPU}
    _, history = fit(linear(), data, settings(epochs=2), schedule, constrain=record, **options)
    assert rates == pytest.approx([0.04 + step for step in range(12)])
    assert [row["learning_rate"] for row in history] == pytest.approx([0.04, 4.04, 8.04])


def test_training_moves_the_running_statistics_once_a_step():
    state, _ = trained(seed=1)  # best of 6 epochs of 3 steps
    assert state["bn1.num_batches_tracked"].item() in range(3, 19, 3)
    assert state["bn1.running_mean"].any()


def trained(seed: int, flip: bool | None = False, dataset: Dataset = GREY) -> tuple[dict, list[dict]]:
    """Train a resnet8 on labels that cannot be learnt."""
    network = build_network("resnet8", 2, 1)
    train, validation = random_split(24), random_split(11, seed=1)
    return learn(network, train, validation, settings(epochs=6, flip=flip), dataset=dataset, seed=seed)


def test_a_seed_gives_the_same_bytes_again():
    first, second = trained(seed=1), trained(seed=1)
    assert state_bytes(first[0]) == state_bytes(second[0])
    assert first[1] == second[1]


def test_another_seed_gives_other_weights_from_the_same_start():
    assert state_bytes(trained(seed=1)[0]) != state_bytes(trained(seed=2)[0])


@pytest.mark.parametrize("mirrored", [False, True])
def test_flip_left_open_is_decided_by_the_data_set(mirrored):
    dataset = dataclasses.replace(GREY, flip=mirrored)
    left_open = state_bytes(trained(1, None, dataset)[0])
    assert left_open == state_bytes(trained(1, mirrored, dataset)[0])
    assert left_open != state_bytes(trained(1, not mirrored, dataset)[0])


def test_precision_left_open_is_float32_on_a_cpu():
    train, validation = random_split(20), random_split(11, seed=1)
    left_open, float32, bfloat16 = (
        state_bytes(learn(build_network("resnet8", 2, 1), train, validation, settings(precision=precision))[0])
        for precision in (None, "float32", "bfloat16")
    )
    assert left_open == float32
    assert left_open != bfloat16


def test_weights_that_bfloat16_trains_are_float32_and_have_learned():
    state, history = learn(linear(), separable(40), separable(40, seed=1), settings(precision="bfloat16"))
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    assert history[-1]["validation_accuracy"] == 1


class OnlyFloat32(nn.Module):
    """Puts its logits where only float32 fits."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 2)

    def forward(self, images):
        logits = torch.zeros(len(images), 2)
        return logits.index_put((torch.arange(len(images)),), self.linear(images.flatten(1)))


def test_a_network_that_bfloat16_does_not_fit_is_named_before_its_first_step():
    learn(OnlyFloat32(), random_split(8), random_split(8), settings(epochs=1))
    with pytest.raises(UserError, match="BFloat16"):
        learn(OnlyFloat32(), random_split(8), random_split(8), settings(epochs=1, precision="bfloat16"))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_network_is_left_as_in_the_last_of_the_best_epochs_by_validation_accuracy(seed):
    state, history = trained(seed)
    highest = max(row["validation_accuracy"] for row in history)
    last = [row for row in history if row["validation_accuracy"] == highest][-1]
    assert [row for row in history if row["best"]] == [last]
    network = build_network("resnet8", 2, 1)
    network.load_state_dict(state)
    loss, accuracy = evaluate(network, Normalize(GREY), random_split(11, seed=1), CPU)
    assert accuracy == last["validation_accuracy"]
    assert loss == pytest.approx(last["validation_loss"], rel=1e-5)


def test_an_early_epoch_is_kept_if_validation_gets_worse():
    train = separable(32)
    validation = Split(train.images, 1 - train.labels)
    network = linear()
    with torch.no_grad():
        network[1].weight[0] += 1  # takes bright for dark, as the validation labels do
    _, history = learn(network, train, validation, settings(epochs=8, learning_rate=0.005))
    accuracies = [row["validation_accuracy"] for row in history]
    assert accuracies[0] == 1
    assert accuracies[-1] < 1
    assert evaluate(network, Normalize(GREY), validation, CPU)[1] == 1


def test_the_best_epoch_is_that_of_the_highest_score():
    _, history = learn(linear(), separable(32), separable(16), SETTINGS, score=score_of_second)
    assert [row["epoch"] for row in history if row["best"]] == [2]


def score_of_second(row) -> float:
    return float(row["epoch"] == 2)


def test_of_equally_good_epochs_the_last_is_kept():
    _, history = learn(linear(), separable(32), separable(16, seed=1), settings(epochs=5))
    assert [row["validation_accuracy"] for row in history[-2:]] == [1, 1]
    assert [row["best"] for row in history] == [False] * 4 + [True]


def test_a_linearly_separable_problem_is_learnt_and_generalizes():
    state, history = learn(linear(), separable(32), separable(200, seed=1), settings(epochs=5))
    assert history[-1]["train_accuracy"] == history[-1]["validation_accuracy"] == 1
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    assert state["1.weight"].any()


def test_the_history_has_one_row_an_epoch_with_the_learning_rate_at_its_start():
    split = separable(32)  # 4 steps per epoch
    _, history = learn(linear(), split, split, settings(epochs=3, warmup_epochs=1))
    columns = "epoch learning_rate train_loss train_accuracy validation_loss validation_accuracy best"
    assert [list(row) for row in history] == [columns.split()] * 3
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert [row["learning_rate"] for row in history] == pytest.approx([0.05 / 5, 0.05, 0.05 / 2])


@pytest.mark.parametrize("warmup, first", [(0, 0.05), (0.5, 0.05 / 3), (2.25, 0.05 / 10)])
def test_warm_up_may_last_a_part_of_an_epoch(warmup, first):
    split = separable(32)  # 4 steps per epoch
    _, history = learn(linear(), split, split, settings(epochs=1, warmup_epochs=warmup))
    assert history[0]["learning_rate"] == pytest.approx(first)


def test_progress_counts_every_training_image_of_every_epoch(monkeypatch):
    totals, seen = [], []

    @contextlib.contextmanager
    def record(total, unit, label):
        totals.append(total)
        yield seen.append

    monkeypatch.setattr("elagage.pytorch.training.progress", record)
    learn(linear(), separable(21), separable(4), settings(epochs=3))
    assert totals == [sum(seen)] == [3 * 21]


def test_the_average_of_an_epoch_weighs_images_not_batches():
    network, split = linear(), separable(3)  # batches of 2 and 1
    _, history = learn(network, split, split, settings(epochs=1, batch_size=2, learning_rate=1e-12))
    # Weights of 0 give both classes a half, and take the first.
    assert history[0]["train_loss"] == pytest.approx(math.log(2))
    assert history[0]["train_accuracy"] == pytest.approx((split.labels == 0).mean())


def test_what_constrains_the_optimizer_holds_after_every_step():
    def only_bias(network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.register_step_post_hook(lambda *_: nn.init.zeros_(network[1].weight))

    parts = separable(32), separable(8)
    constrained, _ = learn(linear(), *parts, settings(), constrain=only_bias)
    assert not constrained["1.weight"].any()
    free, _ = learn(linear(), *parts, settings())
    assert free["1.weight"].any()


def test_training_leaves_the_images_as_they_are():
    split = separable(16)
    images, labels = split.images.copy(), split.labels.copy()
    learn(linear(), split, split, settings(epochs=2, flip=True))
    assert numpy.array_equal(split.images, images)
    assert numpy.array_equal(split.labels, labels)


@pytest.mark.parametrize("momentum", [0, 0.9])
def test_weight_decay_shrinks_weights(momentum):
    def norm(decay: float) -> float:
        changes = settings(weight_decay=decay, momentum=momentum)
        return learn(linear(), separable(32), separable(8), changes)[0]["1.weight"].norm().item()

    assert norm(1.0) < norm(0.0)


def two_layers() -> nn.Module:
    """Return a network that overflows when both of its layers do."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2))


@pytest.mark.parametrize("epochs", [2, pytest.param(1, id="in the last step")])
def test_a_loss_that_is_not_finite_names_the_learning_rate_to_lower(epochs):
    # One step an epoch: the first loss is finite, the weights after it are not usable.
    changes = settings(epochs=epochs, batch_size=32, learning_rate=1e30, warmup_epochs=0)
    with pytest.raises(UserError, match=r"^training\.learning_rate: .*(nan|inf).*lower training\.learning_rate"):
        learn(two_layers(), separable(32), separable(8), changes)


@pytest.mark.parametrize("kind", [Auxiliary, InPlace])
def test_networks_as_people_write_them_learn(kind):
    torch.manual_seed(0)
    network = kind(2, 1)
    before = {name: tensor.clone() for name, tensor in network.named_parameters()}
    _, history = learn(network, separable(32), separable(32, seed=1), settings(epochs=3))
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    assert all((parameter != before[name]).any() for name, parameter in network.named_parameters())


class Stale(nn.Module):
    """Keeps, from its first call in evaluation mode, what it computed from its weights."""

    def __init__(self):
        super().__init__()
        self.linear, self.kept = nn.Linear(16, 2), None

    def forward(self, images):
        weight = self.linear.weight
        if not self.training:
            self.kept = weight = weight.clone() if self.kept is None else self.kept
        return nn.functional.linear(images.flatten(1), weight, self.linear.bias)


def test_each_epoch_is_evaluated_as_its_checkpoint_is():
    network, validation = Stale(), separable(40, seed=1)
    state, history = learn(network, separable(32), validation, settings(epochs=4))
    fresh_network = Stale()
    fresh_network.load_state_dict(state)
    loss, _ = evaluate(fresh_network, Normalize(GREY), validation, CPU)
    assert loss == pytest.approx(next(row["validation_loss"] for row in history if row["best"]), rel=1e-6)


def interrupted(state: TrainingState, after: int | None = None) -> tuple[dict, list[dict]]:
    """Train for EPOCHS epochs of STEPS steps; raise Killed after so many steps of this attempt."""
    random.seed(0)
    numpy.random.seed(0)
    steps = itertools.count(1)

    def step(*_) -> None:
        if next(steps) == after:
            raise Killed

    train, validation = random_split(8 * STEPS), random_split(11, seed=1)
    chosen = settings(epochs=EPOCHS, warmup_epochs=1.5)
    constrain = lambda network, optimizer: optimizer.register_step_post_hook(step)  # noqa: E731
    return learn(Drawing(), train, validation, chosen, state=state, constrain=constrain)


@pytest.fixture(scope="module")
def undisturbed() -> tuple[dict, list[dict]]:
    """Return what an uninterrupted training ends with."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.chdir(folder)
        return interrupted(fresh())


@pytest.mark.parametrize("after", range(1, EPOCHS * STEPS + 1))
def test_a_training_killed_at_any_step_ends_with_the_bytes_of_one_that_was_not(undisturbed, after):
    state = fresh()
    with pytest.raises(Killed):
        interrupted(state, after)
    random.random(), numpy.random.random(), torch.rand(1)  # another process has other random states
    resumed = interrupted(state)
    assert state_bytes(resumed[0]) == state_bytes(undisturbed[0])
    assert resumed[1] == undisturbed[1]


def test_a_training_killed_in_every_epoch_still_ends_with_the_same_bytes(undisturbed, capsys):
    state = fresh()
    for _ in range(EPOCHS - 1):
        with pytest.raises(Killed):
            interrupted(state, STEPS + 1)  # one epoch and a step of the next
    resumed = interrupted(state)
    assert state_bytes(resumed[0]) == state_bytes(undisturbed[0])
    assert f"resumed after epoch {EPOCHS - 1} of {EPOCHS}" in capsys.readouterr().out


def test_a_training_killed_after_its_last_epoch_trains_no_more():
    state = fresh()
    finished = interrupted(state)
    assert state_bytes(interrupted(state, 1)[0]) == state_bytes(finished[0])


def test_the_state_of_another_training_is_not_resumed(undisturbed, capsys):
    state = fresh()
    with pytest.raises(Killed):
        interrupted(state, STEPS + 1)
    other = TrainingState(state.path, {"learning_rate": 0.5})
    assert state_bytes(interrupted(other)[0]) == state_bytes(undisturbed[0])
    assert f"{state.path} belongs to a training with other settings" in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"hello" * 100], ids=["empty", "truncated", "foreign"])
def test_a_damaged_state_is_named_and_training_starts_again(undisturbed, content, capsys):
    state = fresh()
    state.path.write_bytes(content)
    assert state_bytes(interrupted(state)[0]) == state_bytes(undisturbed[0])
    assert f"{state.path} cannot be read" in capsys.readouterr().out


def test_a_state_that_is_a_program_is_not_executed(capsys):
    class Hostile:
        def __reduce__(self):
            return pathlib.Path.touch, (pathlib.Path("executed"),)

    state = fresh()
    torch.save({"identity": Hostile()}, state.path)
    assert state.load() is None
    assert not pathlib.Path("executed").exists()


def test_a_state_can_be_removed_once_and_again():
    state = fresh()
    interrupted(state)
    assert state.path.exists()
    state.remove()
    state.remove()
    assert not state.path.exists()


def test_what_a_network_compiles_is_computed_as_written():
    compiled = []

    def backend(module, inputs):
        compiled.append(module)
        return module.forward

    torch.compile(nn.Linear(2, 2), backend=backend)(torch.ones(1, 2))
    assert compiled == []
