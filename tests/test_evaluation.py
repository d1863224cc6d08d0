"""Loss and accuracy in PyTorch: of every image once, without a trace."""

import pytest
import torch
from torch import nn
from trainings import CPU, GREY, linear, random_split, separable, state_bytes

from elagage.data import Split
from elagage.pytorch.evaluation import EVALUATION_BATCH, evaluate
from elagage.pytorch.models import Normalize, build_network


@pytest.mark.parametrize("count", [1, EVALUATION_BATCH - 1, EVALUATION_BATCH, EVALUATION_BATCH + 1, 1003])
def test_evaluation_counts_every_image_once(count):
    split = separable(count)
    network = build_linear_with_bright_guess()
    loss, accuracy = evaluate(network, Normalize(GREY), split, CPU)
    logits = network(Normalize(GREY)(torch.from_numpy(split.images)))
    labels = torch.from_numpy(split.labels)
    assert accuracy == (logits.argmax(1) == labels).sum().item() / count
    assert loss == pytest.approx(nn.functional.cross_entropy(logits, labels).item())


def build_linear_with_bright_guess() -> nn.Module:
    """Return a classifier that is right for some images only: it looks at one pixel."""
    network = linear()
    with torch.no_grad():
        network[1].weight[1, 0] = 1
    return network


def test_evaluation_leaves_weights_and_running_statistics_alone():
    network = build_network("resnet8", 2, 1).train()
    before = state_bytes(network.state_dict())
    evaluate(network, Normalize(GREY), random_split(10), CPU)
    assert state_bytes(network.state_dict()) == before


def test_evaluation_uses_running_statistics_so_that_companions_do_not_matter():
    network, split = build_network("resnet8", 2, 1).train(), random_split(6)
    together, _ = evaluate(network, Normalize(GREY), split, CPU)
    alone = [
        evaluate(network, Normalize(GREY), Split(split.images[i : i + 1], split.labels[i : i + 1]), CPU)[0]
        for i in range(6)
    ]
    assert together == pytest.approx(sum(alone) / 6, rel=1e-4)
