"""Blocks that the network is made of."""

import torch
from torch import nn


class ResidualBlock(nn.Module):
    """float32 [batch, channels, height, width] -> the same shape: a convolution, its batch norm and a shortcut."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.norm(self.conv(x)))
