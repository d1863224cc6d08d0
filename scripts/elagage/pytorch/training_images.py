"""Batches of training images, held in memory, cropped and flipped at random."""

import math

import torch
from torch.nn import functional

from elagage.data import Split


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
