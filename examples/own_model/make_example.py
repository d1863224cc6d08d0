"""Draw images/ and train my_weights.safetensors: python make_example.py

Both are in the repository; this says where they come from. The network learns from other drawings than those 40.
"""

import pathlib

import numpy
import torch
from my_model import build
from PIL import Image
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy

FOLDER = pathlib.Path(__file__).parent
CLASSES = ("cross", "ring")
SIZE = 16  # pixels
IMAGES = 10  # of each class, in train/ and in test/
DRAWN = 2000  # images that the network learns from
EPOCHS = 10


def draw(name: str, random: numpy.random.Generator) -> numpy.ndarray:
    """Return a cross or a ring, uint8 [SIZE, SIZE, 3], of a random place, size and colour, on a noisy background."""
    y, x = numpy.mgrid[:SIZE, :SIZE] - random.uniform(6, 9, (2, 1, 1))
    radius = random.uniform(3, 6)
    if name == "ring":
        shape = abs(numpy.hypot(y, x) - radius) < 1
    else:
        shape = (numpy.minimum(abs(y), abs(x)) < 1) & (numpy.maximum(abs(y), abs(x)) < radius)
    background, colour = random.uniform(0, 90, 3), random.uniform(110, 255, 3)
    image = numpy.where(shape[..., None], colour, background) + random.normal(0, 20, (SIZE, SIZE, 3))
    return image.clip(0, 255).astype(numpy.uint8)


def draw_split(seed: int) -> dict[str, numpy.ndarray]:
    """Return the images of each class in a split, uint8 [IMAGES, SIZE, SIZE, 3]."""
    random = numpy.random.default_rng(seed)
    return {name: numpy.stack([draw(name, random) for _ in range(IMAGES)]) for name in CLASSES}


def train(mean: numpy.ndarray, std: numpy.ndarray) -> torch.nn.Module:
    """Return the network, trained on images normalized by mean and standard deviation (0 to 255) of each channel."""
    random = numpy.random.default_rng(2)
    labels = random.integers(0, len(CLASSES), DRAWN)
    pixels = numpy.stack([draw(CLASSES[label], random) for label in labels])
    images = torch.tensor((pixels - mean) / std, dtype=torch.float32).permute(0, 3, 1, 2)
    torch.manual_seed(0)
    network = build(num_classes=len(CLASSES), in_channels=3)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for epoch in range(EPOCHS):
        for batch in torch.randperm(DRAWN).split(100):
            optimizer.zero_grad()
            loss = cross_entropy(network(images[batch]), torch.tensor(labels)[batch])
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch + 1}: loss {loss:.3f} on the last batch")
    return network.eval()


def main() -> None:
    """Write the images and the weights."""
    splits = {split: draw_split(seed) for seed, split in enumerate(("train", "test"))}
    for split, classes in splits.items():
        for name, images in classes.items():
            folder = FOLDER / "images" / split / name
            folder.mkdir(parents=True, exist_ok=True)
            for number, image in enumerate(images):
                Image.fromarray(image).save(folder / f"{number}.png")
    pixels = numpy.concatenate(list(splits["train"].values()))
    network = train(pixels.mean((0, 1, 2)), pixels.std((0, 1, 2)))
    save_file(network.state_dict(), FOLDER / "my_weights.safetensors")


if __name__ == "__main__":
    main()
