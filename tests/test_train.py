"""The dense checkpoint: trained here, or taken from the weights that the user brings."""

import contextlib
import csv
import dataclasses
import json
import pathlib
import pickle
import resource

import pytest
import torch
from runners import python
from safetensors.torch import save_file
from torch import nn

from elagage.data import PreparedData, Split
from elagage.errors import UserError
from elagage.files import sha256
from elagage.pytorch.checkpoints import load_checkpoint
from elagage.pytorch.evaluation import evaluate
from elagage.pytorch.models import ModelSpec, Normalize, build_network
from elagage.pytorch.training_state import TrainingState
from elagage.pytorch.weights import read_states
from elagage.schedules import TrainingSettings
from elagage.version import VERSION
from train import train
from train_import import train_import

SETTINGS = {
    "epochs": 3,
    "batch_size": 8,
    "learning_rate": 0.05,
    "momentum": 0.9,
    "weight_decay": 0.0005,
    "warmup_epochs": 1,
    "flip": None,
}


def trained(data: PreparedData, output: pathlib.Path, seed: int = 0, architecture: str = "resnet8", **changes):
    """Train on the data; return the paths of the checkpoint and of the history."""
    checkpoint, history = output / "dense.safetensors", output / "history.csv"
    settings, state = TrainingSettings(**SETTINGS | changes), TrainingState(output / "state.pt", {})
    model = ModelSpec("mine", architecture, seed)
    train(data, model, settings, state=state, checkpoint=checkpoint, history=history)
    return checkpoint, history


def rows(history: pathlib.Path) -> list[dict[str, str]]:
    with open(history, newline="") as file:
        return list(csv.DictReader(file))


def files(folder: pathlib.Path) -> list[pathlib.Path]:
    """Return all files below the folder, hidden ones too."""
    return [path for path in folder.rglob("*") if path.is_file()]


def test_training_writes_a_checkpoint_that_says_where_it_comes_from(tmp_path, data):
    # It starts with what the validation labels, each one class too high, call right, and learns what they call wrong.
    validation = Split(data.validation.images, (data.validation.labels + 1) % 3)
    data = dataclasses.replace(data, validation=validation)
    (tmp_path / "backwards.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "def build(num_classes, in_channels):\n"
        "    linear = nn.Linear(64, 3)\n"
        "    with torch.no_grad():\n"
        "        for label in range(3):\n"
        "            linear.weight[(label + 1) % 3, 24 * label : 24 * label + 16] = 0.5\n"
        "    return nn.Sequential(nn.Flatten(), linear)\n"
    )
    architecture = f"{tmp_path}/backwards.py:build"
    checkpoint, history = trained(data, tmp_path / "out", 7, architecture, learning_rate=0.01, epochs=12)
    best = next(row for row in rows(history) if row["best"] == "True")
    assert best["epoch"] != "12"
    assert load_checkpoint(checkpoint)[1] == {
        "model": "mine",
        "architecture": architecture,
        "dataset": "toy",
        "seed": 7,
        "epoch": int(best["epoch"]),
        "validation_accuracy": 1.0,
        "prunable": [["1.weight"]],
        "torch": torch.__version__,
        "elagage": VERSION,
    }
    assert sorted(files(tmp_path / "out")) == [checkpoint, history]


def test_the_checkpoint_is_the_best_epoch_of_the_history(tmp_path, data):
    checkpoint, history = trained(data, tmp_path / "out")
    network = build_network("resnet8", 3, 1)
    network.load_state_dict(load_checkpoint(checkpoint)[0])
    loss, accuracy = evaluate(network, Normalize(data.dataset), data.validation, torch.device("cpu"))
    best = [row for row in rows(history) if row["best"] == "True"]
    assert [float(row["validation_accuracy"]) for row in best] == [accuracy]
    assert [float(row["validation_loss"]) for row in best] == pytest.approx([loss], rel=1e-2)  # a GPU may have trained


def test_the_history_is_a_table_with_one_row_an_epoch(tmp_path, data):
    history = rows(trained(data, tmp_path / "out", epochs=4)[1])
    columns = "epoch learning_rate train_loss train_accuracy validation_loss validation_accuracy best"
    assert [list(row) for row in history] == [columns.split()] * 4
    assert [row["epoch"] for row in history] == ["1", "2", "3", "4"]
    assert [row["best"] for row in history].count("True") == 1


def test_training_learns_the_toy_classes(tmp_path, data):
    checkpoint, _ = trained(data, tmp_path / "out", epochs=15)
    assert load_checkpoint(checkpoint)[1]["validation_accuracy"] == 1


def test_a_seed_gives_the_same_files_again_and_another_seed_other_files(tmp_path, data):
    first = [path.read_bytes() for path in trained(data, tmp_path / "first", seed=1)]
    second = [path.read_bytes() for path in trained(data, tmp_path / "second", seed=1)]
    other = [path.read_bytes() for path in trained(data, tmp_path / "other", seed=2)]
    assert first == second
    assert first[0] != other[0]
    assert first[1] != other[1]


def test_the_seed_decides_the_weights_that_training_starts_from(tmp_path, data):
    checkpoint, _ = trained(data, tmp_path / "out", seed=7, learning_rate=1e-12, epochs=1)
    start = build_network("resnet8", 3, 1, seed=7).conv1.weight
    torch.testing.assert_close(load_checkpoint(checkpoint)[0]["conv1.weight"], start)


def test_training_leaves_the_data_set_as_it_is(tmp_path, dataset, data):
    before = {path.name: sha256(path) for path in files(dataset)}
    trained(data, tmp_path / "out")
    assert {path.name: sha256(path) for path in files(dataset)} == before


def test_training_that_diverges_writes_nothing(tmp_path, data):
    # Without batch norm, which would hide the size of the weights.
    (tmp_path / "plain.py").write_text(
        "from torch import nn\n"
        "def build(num_classes, in_channels):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, num_classes))\n"
    )
    with pytest.raises(UserError, match=r"training\.learning_rate"):
        trained(data, tmp_path / "out", architecture=f"{tmp_path}/plain.py:build", learning_rate=1e30)
    assert not files(tmp_path / "out")


def network(seed: int = 3) -> nn.Module:
    """Return a resnet8 for the data set `dataset` in which no tensor is as a new network has it."""
    made = build_network("resnet8", 3, 1, seed)
    random = torch.Generator().manual_seed(seed)
    for number, tensor in enumerate(made.state_dict().values()):
        tensor.copy_(torch.rand(tensor.shape, generator=random) if tensor.is_floating_point() else number)
    return made


def imported(data: PreparedData, weights: pathlib.Path, architecture: str = "resnet8", seed: int = 0):
    """Import the weights; return the checkpoint's path."""
    checkpoint = weights.parent / "out" / "dense.safetensors"
    train_import(data.dataset, ModelSpec("mine", architecture, seed), str(weights), checkpoint=checkpoint)
    return checkpoint


def prefixed(state: dict) -> dict:
    return {f"module.{name}": tensor for name, tensor in state.items()}


FORMS = {  # what users' files hold -> ending, function of the state dict
    "safetensors": ("safetensors", lambda state: state),
    "state dict": ("pt", lambda state: state),
    "state dict as .pth": ("pth", lambda state: state),
    "plain dictionary": ("pt", dict),
    "under state_dict": ("pt", lambda state: {"epoch": 3, "state_dict": state, "note": "best"}),
    "of DataParallel": ("pt", prefixed),
    "of DataParallel under state_dict": ("pt", lambda state: {"state_dict": prefixed(state)}),
    "of DataParallel in safetensors": ("safetensors", prefixed),
    "float64": ("pt", lambda state: {name: tensor.double() for name, tensor in state.items()}),
}


@pytest.mark.parametrize("ending, form", FORMS.values(), ids=FORMS.keys())
def test_weights_in_every_usual_form_become_the_same_checkpoint(tmp_path, data, ending, form):
    expected, weights = network().state_dict(), tmp_path / f"weights.{ending}"
    (save_file if ending == "safetensors" else torch.save)(form(expected), weights)
    state, provenance = load_checkpoint(imported(data, weights, seed=4))
    assert set(state) == set(expected)
    assert all(
        torch.equal(state[name], tensor) and state[name].dtype == tensor.dtype for name, tensor in expected.items()
    )
    assert provenance == {
        "model": "mine",
        "architecture": "resnet8",
        "dataset": "toy",
        "seed": 4,
        "prunable": [[name] for name, tensor in network().state_dict().items() if tensor.dim() > 1],
        "weights_sha256": sha256(weights),
        "torch": torch.__version__,
        "elagage": VERSION,
        "weights_key": "state_dict" if "state_dict" in form(expected) else "",
        "weights_prefix": "" if "conv1.weight" in (form(expected).get("state_dict") or form(expected)) else "module.",
    }


def test_weights_in_the_old_format_of_torch_are_read(tmp_path):
    torch.save(network().state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    [read] = read_states(tmp_path / "old.pt")
    assert all(torch.equal(read.tensors[name], tensor) for name, tensor in network().state_dict().items())


def test_a_name_that_starts_with_module_only_sometimes_is_kept(tmp_path):
    torch.save({"module.weight": torch.ones(1), "head.weight": torch.ones(1)}, tmp_path / "weights.pt")
    assert set(read_states(tmp_path / "weights.pt")[0].tensors) == {"module.weight", "head.weight"}


def test_a_tensor_that_lies_in_two_places_of_the_network_can_be_written(tmp_path, data):
    (tmp_path / "tied.py").write_text(
        "from torch import nn\n"
        "def build(num_classes, in_channels):\n"
        "    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, num_classes))\n"
        "    net[2].weight = net[1].weight\n"
        "    return net\n"
    )
    architecture = f"{tmp_path}/tied.py:build"
    expected = build_network(architecture, 3, 1, seed=9).state_dict()
    torch.save(expected, tmp_path / "weights.pt")
    state = load_checkpoint(imported(data, tmp_path / "weights.pt", architecture))[0]
    assert torch.equal(state["1.weight"], expected["1.weight"])
    assert torch.equal(state["2.weight"], expected["1.weight"])


def test_the_same_weights_give_the_same_file_again(tmp_path, data):
    torch.save(network().state_dict(), tmp_path / "weights.pt")
    first = imported(data, tmp_path / "weights.pt").read_bytes()
    assert imported(data, tmp_path / "weights.pt").read_bytes() == first


def refused(data: PreparedData, weights: pathlib.Path, *words: str) -> None:
    """Assert that the import names the file and says these words, and that it leaves nothing behind."""
    with pytest.raises(UserError) as error:
        imported(data, weights)
    for word in (str(weights), *words):
        assert word in str(error.value)
    assert not files(weights.parent / "out")


def test_weights_that_do_not_fit_are_listed_tensor_by_tensor(tmp_path, data):
    state = network().state_dict()
    del state["bn1.bias"]
    state["extra.weight"] = torch.ones(2)
    state["linear.weight"] = torch.ones(10, 64)
    torch.save(state, tmp_path / "weights.pt")
    refused(
        data,
        tmp_path / "weights.pt",
        "models.mine.weights",
        "lacks bn1.bias (16,)",
        "has extra.weight",
        "has linear.weight of shape (10, 64), the network (3, 64)",
    )


def test_of_many_tensors_that_do_not_fit_ten_are_listed_and_the_rest_counted(tmp_path, data):
    torch.save({f"w{number}": torch.ones(1) for number in range(5)}, tmp_path / "weights.pt")
    lacking = sum("num_batches_tracked" not in name for name in network().state_dict())
    refused(data, tmp_path / "weights.pt", "lacks conv1.weight", f"; and {lacking + 5 - 10} more")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
@pytest.mark.parametrize("ending", ["safetensors", "pt"])
def test_a_truncated_file_is_refused(tmp_path, data, ending, share):
    weights = tmp_path / f"weights.{ending}"
    (save_file if ending == "safetensors" else torch.save)(network().state_dict(), weights)
    content = weights.read_bytes()
    weights.write_bytes(content[: int(share * len(content))])
    refused(data, weights, "not a readable file of tensors")


class CreatesFile:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path: pathlib.Path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize(
    "save",
    [
        torch.save,
        lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
        lambda content, path: path.write_bytes(pickle.dumps(content, protocol=2)),
    ],
    ids=["torch", "old torch", "pickle"],
)
@pytest.mark.parametrize("wrapped", [False, True], ids=["alone", "beside tensors"])
def test_code_in_a_file_of_weights_is_not_executed(tmp_path, data, save, wrapped):
    trap = CreatesFile(tmp_path / "executed")
    save({**network().state_dict(), "trap": trap} if wrapped else trap, tmp_path / "weights.pt")
    with contextlib.suppress(UserError):  # a file of torch.save has tensors that can be taken beside the trap
        imported(data, tmp_path / "weights.pt")
    assert not (tmp_path / "executed").exists()
    pickle.loads(pickle.dumps(trap)).close()
    assert (tmp_path / "executed").exists()  # the trap does work where it is unpickled


@pytest.mark.parametrize(
    "content, word",
    [
        (torch.ones(3), "Tensor"),
        ([torch.ones(3)], "list"),
        ({"epoch": 3}, "state dict"),
        ({"model": {"weight": torch.ones(3)}}, "lacks conv1.weight"),
        ({0: torch.ones(3)}, "state dict"),
        (nn.Linear(2, 2), "an object of a class"),
    ],
    ids=["tensor", "list", "number", "other key", "numbered tensors", "whole network"],
)
def test_a_file_without_a_state_dict_is_refused(tmp_path, data, content, word):
    torch.save(content, tmp_path / "weights.pt")
    refused(data, tmp_path / "weights.pt", word)


def test_a_file_of_text_is_refused(tmp_path, data):
    for ending in ("pt", "safetensors"):
        (tmp_path / f"weights.{ending}").write_text(json.dumps({"weight": [1, 2]}))
        refused(data, tmp_path / f"weights.{ending}", "not a readable file of tensors")


def test_a_missing_file_is_refused_by_name(tmp_path, data):
    for ending in ("pt", "safetensors"):
        refused(data, tmp_path / f"absent.{ending}", "No such file")


@pytest.mark.skipif(not hasattr(resource, "RUSAGE_THREAD"), reason="only Linux counts the time of one thread")
def test_a_training_takes_the_cores_that_it_was_given(dataset, tmp_path):
    """With one, all of its work is that of one thread, whatever the machine has and other programs leave of it."""
    done = python(f"""
import resource
from pathlib import Path
from elagage.data import Dataset, PreparedData, Split
from elagage.pytorch.models import ModelSpec
from elagage.schedules import TrainingSettings
from elagage.pytorch.device import compute_reproducibly
from elagage.pytorch.training_state import TrainingState
from train import train

compute_reproducibly(threads=1)
data, output = Path({str(dataset)!r}), Path({str(tmp_path)!r})
split = lambda name: Split.read(data / f"{{name}}_images.npy", data / f"{{name}}_labels.npy")
prepared = PreparedData(Dataset.read(data / "dataset.json"), split("train"), split("validation"))
used = lambda whose: sum(resource.getrusage(whose)[:2])
before = used(resource.RUSAGE_SELF), used(resource.RUSAGE_THREAD)
settings = TrainingSettings(**{SETTINGS | {"epochs": 30}})
state = TrainingState(output / "state.pt", {{}})
train(prepared, ModelSpec("mine", "resnet8", 0), settings, state=state, checkpoint=output / "a", history=output / "b")
print("seconds", used(resource.RUSAGE_SELF) - before[0], used(resource.RUSAGE_THREAD) - before[1])
""")
    process, thread = map(float, done.stdout.splitlines()[-1].split()[1:])
    assert process > 0.5
    assert process <= 1.1 * thread
