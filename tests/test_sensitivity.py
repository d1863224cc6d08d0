"""Sensitivity: one layer pruned at a time, counted by hand, and the network as it was afterwards."""

import csv

import numpy
import pytest
import torch
from torch import nn

from elagage.data import Dataset, Split
from elagage.errors import UserError
from elagage.pytorch.checkpoints import save_checkpoint
from elagage.pytorch.models import Normalize, build_network
from sensitivity import global_shares, layers, measure, prune_each_layer, sensitivity

PIXELS = Dataset("toy", ["a", "b"], 2, 1, [0.0] * 2, [1 / 255] * 2, False, {}, {})
CPU = torch.device("cpu")


def linear(weight: list[list[float]]) -> nn.Linear:
    """Return a linear layer of these weights, without a bias."""
    layer = nn.Linear(len(weight[0]), len(weight), bias=False)
    layer.weight = nn.Parameter(torch.tensor(weight))
    return layer


class Toy(nn.Module):
    """Two pixels in; the second counts for more, through small weights in the first layer and large ones in the last.

    Class 1 where 10 * (0.1 * first + 0.2 * second) is above 5 * first + 0.5 * second.
    """

    def __init__(self):
        super().__init__()
        self.first = linear([[1.0, 0.1], [0.1, 0.2]])
        self.last = linear([[5.0, -0.01], [0.02, 10.0]])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(images.flatten(1)))


class Shared(nn.Module):
    """One weight under two names, and a module that two blocks share."""

    def __init__(self):
        super().__init__()
        self.one = linear([[1.0, 2.0], [3.0, 4.0]])
        self.two = linear([[0.0, 0.0], [0.0, 0.0]])
        self.two.weight = self.one.weight
        block = linear([[5.0, 6.0], [7.0, 8.0]])
        self.blocks = nn.Sequential(block, nn.ReLU(), block)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.blocks(self.two(self.one(images.flatten(1))))


def weights_of(network: nn.Module) -> dict[str, nn.Parameter]:
    return layers(network, PIXELS)


def weights(network: nn.Module) -> dict[str, list[float]]:
    return {name: tensor.flatten().tolist() for name, tensor in network.state_dict().items()}


def test_each_layer_is_pruned_alone_and_then_as_it_was():
    network = Toy()
    before = weights(network)
    seen = []
    for name, rate in prune_each_layer(weights_of(network), [0.25, 0.5, 0.75]):
        seen.append((name, rate))
        now = weights(network)
        (other,) = before.keys() - {name}
        assert now[other] == before[other]
        assert now[name].count(0) == 4 * rate
        kept = [abs(value) for value in before[name] if value in now[name]]
        assert min(kept) == sorted(map(abs, before[name]))[int(4 * rate)]
    assert seen == [(name, rate) for name in ("first.weight", "last.weight") for rate in (0.25, 0.5, 0.75)]
    assert weights(network) == before


def test_a_shared_weight_is_one_layer_and_pruned_for_all_that_share_it():
    network = Shared()
    assert list(weights_of(network)) == ["one.weight", "blocks.0.weight"]
    pruned = {
        "one.weight": ([0, 0, 3, 4], [5, 6, 7, 8]),
        "blocks.0.weight": ([1, 2, 3, 4], [0, 0, 7, 8]),
    }
    for name, _ in prune_each_layer(weights_of(network), [0.5]):
        now = weights(network)
        assert (now["one.weight"], now["blocks.0.weight"]) == pruned[name]
        assert (now["two.weight"], now["blocks.2.weight"]) == pruned[name]
    assert weights(network) == weights(Shared())
    assert network.two.weight is network.one.weight


def test_global_shares_by_hand_and_the_network_stays():
    network = Toy()
    # Sizes in order: 0.01, 0.02 (last), 0.1, 0.1, 0.2 (first), 1 (first), 5, 10 (last).
    assert global_shares(weights_of(network), 0.25) == {"first.weight": 0, "last.weight": 0.5}
    assert global_shares(weights_of(network), 0.625) == {"first.weight": 0.75, "last.weight": 0.5}
    assert weights(network) == weights(Toy())
    assert global_shares(weights_of(Shared()), 0.5) == {"one.weight": 1, "blocks.0.weight": 0}


def test_the_rows_are_exact_for_a_network_by_hand():
    """Four images of two pixels; which class wins follows from the few weights that are left."""
    dataset = Dataset("toy", ["a", "b"], 1, 8, [0.0], [1 / 255], False, {}, {})
    pixels = [[4, 0], [4, 2], [0, 4], [10, 9]]
    images = numpy.array(pixels, numpy.uint8).reshape(4, 1, 1, 2)
    split = Split(images, numpy.array([0, 0, 1, 1]))
    advanced = []
    network = Toy()
    rows = measure(network, weights_of(network), Normalize(dataset), split, [0.5, 0.75], CPU, advanced.append)

    def correct(first, last):
        logits = numpy.array(pixels) @ numpy.array(first).T @ numpy.array(last).T
        return int((logits.argmax(1) == [0, 0, 1, 1]).sum())

    whole = [[1.0, 0.1], [0.1, 0.2]], [[5.0, -0.01], [0.02, 10.0]]
    expected = [
        ("first.weight", 0.5, correct([[1, 0], [0, 0.2]], whole[1]), 0.5),
        ("first.weight", 0.75, correct([[1, 0], [0, 0]], whole[1]), 1.0),
        ("last.weight", 0.5, correct(whole[0], [[5, 0], [0, 10]]), 0.5),
        ("last.weight", 0.75, correct(whole[0], [[0, 0], [0, 10]]), 0.5),
    ]
    shares = [row["global_share"] for row in rows]
    assert [(row["layer"], row["rate"], row["correct"]) for row in rows] == [row[:3] for row in expected]
    assert len({row["correct"] for row in rows}) > 1
    # Of the 8 weights 4 and 6 go: 0.01, 0.02, 0.1, 0.1, then 0.2 and 1.
    assert shares == [0.5, 1.0, 0.5, 0.5]
    assert {(row["dense_correct"], row["images"], row["weights"]) for row in rows} == {(correct(*whole), 4, 4)}
    assert all(row["accuracy"] == row["correct"] / 4 for row in rows)
    assert advanced == [1] * 5


@pytest.fixture
def dense(tmp_path):
    """Return the path of a dense resnet8 for the data set `dataset`."""
    path = tmp_path / "dense.safetensors"
    save_checkpoint(path, build_network("resnet8", 3, 1, seed=5).state_dict(), {"model": "mine", "seed": 5})
    return path


def run(data, dense, images, output, rates=(0.5, 0.9)):
    asked = {"images": images, "rates": list(rates), "label": "mine", "output": output}
    sensitivity(data.dataset, data.validation, dense, "resnet8", **asked)
    with open(output, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("asked", "measured"), [(4, 4), (None, 9)])
def test_the_file_has_a_row_for_each_layer_and_rate_on_the_images_asked_for(tmp_path, data, dense, asked, measured):
    rows = run(data, dense, asked, tmp_path / "out" / "sensitivity.csv")
    state = build_network("resnet8", 3, 1).state_dict()
    named = {name: tensor.numel() for name, tensor in state.items() if tensor.dim() > 1}
    assert [(row["layer"], float(row["rate"])) for row in rows] == [
        (name, rate) for name in named for rate in (0.5, 0.9)
    ]
    assert {row["layer"]: int(row["weights"]) for row in rows} == named
    assert {int(row["images"]) for row in rows} == {measured}
    assert all(0 <= int(row["correct"]) <= measured for row in rows)
    taken = sum(float(row["global_share"]) * int(row["weights"]) for row in rows if row["rate"] == "0.5")
    assert taken == pytest.approx(0.5 * sum(named.values()), abs=1)


def test_the_same_dense_model_gives_the_same_file_again(tmp_path, data, dense):
    for name in ("first.csv", "second.csv"):
        run(data, dense, None, tmp_path / name)
    assert (tmp_path / "first.csv").read_bytes() == (tmp_path / "second.csv").read_bytes()


def test_more_images_than_there_are_are_refused_and_nothing_is_written(tmp_path, data, dense):
    with pytest.raises(UserError, match=r"sensitivity\.images: 10 .* only 9"):
        run(data, dense, 10, tmp_path / "out" / "sensitivity.csv")
    assert not (tmp_path / "out").exists()


def test_without_a_rate_there_is_nothing_to_measure(tmp_path, data, dense):
    with pytest.raises(UserError, match=r"pruning\.rates: .* add a rate"):
        run(data, dense, None, tmp_path / "out" / "sensitivity.csv", rates=())
    assert not (tmp_path / "out").exists()
