"""What reaches the network: each image once an epoch, moved and mirrored at random."""

import math

import numpy
import pytest
import torch
from trainings import CPU, random_split

from elagage.data import Split
from elagage.pytorch.training_images import TrainingImages, crop_and_flip


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shifted(image: torch.Tensor, down: int, right: int) -> torch.Tensor:
    """Return the image [channels, size, size] moved, with zeros where nothing was."""
    size = image.shape[-1]
    moved = torch.zeros_like(image)
    moved[:, max(0, down) : size + min(0, down), max(0, right) : size + min(0, right)] = image[
        :, max(0, -down) : size - max(0, down), max(0, -right) : size - max(0, right)
    ]
    return moved


def placements(image: torch.Tensor, pad: int) -> dict[tuple, bytes]:
    """Return the bytes of the image under every (down, right, mirrored)."""
    moves = range(-pad, pad + 1)
    return {
        (down, right, mirrored): shifted(image, down, right).flip(2 if mirrored else ()).contiguous().numpy().tobytes()
        for down in moves
        for right in moves
        for mirrored in (False, True)
    }


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size, pad", [(8, 1), (16, 2), (4, 1)])
def test_a_crop_is_the_image_shifted_over_zeros_and_mirrored_only_if_asked(size, pad, flip):
    image = torch.arange(1, 3 * size * size + 1).remainder(251).add(1).to(torch.uint8).view(3, size, size)
    known = placements(image, pad)
    assert len(set(known.values())) == len(known)  # the image tells all placements apart
    found = {part: place for place, part in known.items()}
    crops = crop_and_flip(image.expand(800, -1, -1, -1), flip, generator())
    seen = {found[crop.contiguous().numpy().tobytes()] for crop in crops}  # KeyError: neither shifted nor mirrored
    assert seen == {place for place in known if flip or not place[2]}


def test_each_image_of_a_batch_moves_by_itself():
    images = torch.full((200, 1, 8, 8), 9, dtype=torch.uint8)
    assert len(torch.unique(crop_and_flip(images, False, generator()), dim=0)) == 9


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_crop_keeps_shape_and_type_and_leaves_the_original(dtype):
    images = torch.arange(2 * 3 * 8 * 8).remainder(256).to(dtype).view(2, 3, 8, 8)
    before = images.clone()
    crops = crop_and_flip(images, True, generator())
    assert (crops.shape, crops.dtype) == (images.shape, dtype)
    assert torch.equal(images, before)


def test_the_generator_decides_the_crops():
    images = torch.arange(32 * 64).remainder(256).to(torch.uint8).view(32, 1, 8, 8)
    torch.manual_seed(1)
    first = crop_and_flip(images, True, generator(5))
    torch.manual_seed(2)
    assert torch.equal(first, crop_and_flip(images, True, generator(5)))
    assert not torch.equal(first, crop_and_flip(images, True, generator(6)))


@pytest.mark.parametrize("count, batch", [(24, 8), (25, 8), (7, 8), (17, 4), (5, 2), (1, 2)])
def test_an_epoch_draws_every_image_once_with_its_label_in_nearly_equal_batches(count, batch):
    labels = numpy.arange(count)
    images = numpy.broadcast_to((labels + 1).astype(numpy.uint8)[:, None, None, None], (count, 1, 8, 8)).copy()
    batches = list(TrainingImages(Split(images, labels), batch, True, CPU).batches(generator()))
    assert len(batches) == math.ceil(count / batch)
    sizes = [len(targets) for _, targets in batches]
    assert max(sizes) <= batch
    assert max(sizes) - min(sizes) <= 1
    drawn = torch.cat([targets for _, targets in batches])
    assert sorted(drawn.tolist()) == labels.tolist()
    assert torch.equal(torch.cat([pixels.amax((1, 2, 3)) for pixels, _ in batches]).long(), drawn + 1)


def test_each_epoch_has_an_order_of_its_own():
    images, same = TrainingImages(random_split(32), 8, False, CPU), generator()
    first, second = ([labels.tolist() for _, labels in images.batches(same)] for _ in range(2))
    assert first != second
