"""The loss of what networks return in training mode."""

import pytest
import torch
from torch import nn

from elagage.errors import UserError
from elagage.pytorch.training_loss import AUXILIARY_WEIGHT, mean_loss


def test_an_auxiliary_head_counts_three_tenths_of_the_logits():
    torch.manual_seed(0)
    logits, head, labels = torch.randn(5, 3), torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    loss, main = mean_loss((logits, head, None), labels)
    assert main is logits
    cross_entropy = nn.functional.cross_entropy
    assert AUXILIARY_WEIGHT == 0.3
    torch.testing.assert_close(loss, cross_entropy(logits, labels) + 0.3 * cross_entropy(head, labels))
    assert torch.equal(mean_loss(logits, labels)[0], cross_entropy(logits, labels))


@pytest.mark.parametrize(
    ("outputs", "named"),
    [
        ({"logits": torch.zeros(2, 3)}, "returned a dict,"),
        (None, "returned a NoneType,"),
        ((), "returned a tuple of ,"),
        (torch.zeros(2, 3, 1), r"returned a tensor \(2, 3, 1\),"),
        ((torch.zeros(2, 3), torch.zeros(2, 4)), r"returned a tuple of a tensor \(2, 3\), a tensor \(2, 4\),"),
    ],
)
def test_what_is_no_logits_in_training_is_named(outputs, named):
    with pytest.raises(UserError, match=f"^in training mode the network {named} not logits"):
        mean_loss(outputs, torch.tensor([0, 1]))
