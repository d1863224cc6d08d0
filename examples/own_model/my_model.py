"""A small network of one's own, which `models` in config.yaml names."""

import torch
from layers import ResidualBlock
from torch import nn

CHANNELS = 8


class SmallNet(nn.Module):
    """float32 images [batch, in_channels, height, width] -> logits [batch, num_classes]."""

    def __init__(self, num_classes: int, in_channels: int):
        super().__init__()
        self.stem = nn.Conv2d(in_channels, CHANNELS, 3, stride=2, padding=1)
        self.blocks = nn.Sequential(ResidualBlock(CHANNELS), ResidualBlock(CHANNELS))
        self.linear = nn.Linear(CHANNELS, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.linear(self.blocks(torch.relu(self.stem(images))).mean((2, 3)))


def build(num_classes: int, in_channels: int) -> nn.Module:
    """Return the network with new weights; Elagage loads those of `weights` into it."""
    return SmallNet(num_classes, in_channels)
