"""The example of a model of one's own: its parts fit each other, and are what its script makes."""

import pathlib
import runpy

import numpy
import pytest
import torch
from PIL import Image

from elagage.configuration import configuration
from elagage.configuration_file import read_file
from elagage.configured_files import check_files
from elagage.image_folder import scan_image_folder
from elagage.pytorch.models import build_network
from elagage.pytorch.weights import load_weights

REPOSITORY = pathlib.Path(__file__).parent.parent
SCHEMA = REPOSITORY / "workflow/schemas/config.schema.yaml"
EXAMPLE = REPOSITORY / "examples/own_model"


@pytest.fixture
def example(monkeypatch) -> dict:
    """Return the example's configuration, in its folder, where paths in it start."""
    monkeypatch.chdir(EXAMPLE)
    monkeypatch.syspath_prepend(str(EXAMPLE))
    return configuration([read_file("study.yaml")], SCHEMA)


def pixels(split: str) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Return the images of a split, uint8 [n, height, width, 3], and their labels, by class and name."""
    files = scan_image_folder("images").splits[split]
    images = numpy.stack([numpy.asarray(Image.open(file)) for file, _ in files])
    return images, numpy.array([label for _, label in files])


def test_its_configuration_fits_its_files(example):
    check_files(example)
    assert len(pixels("train")[0]) == len(pixels("test")[0]) == 20


def test_its_weights_are_trained(example):
    (model,) = example["models"].values()
    network = build_network(model["architecture"], num_classes=2, in_channels=3).eval()
    load_weights(network, model["weights"], None, "weights")
    train, (images, labels) = pixels("train")[0], pixels("test")
    normalized = (images - train.mean((0, 1, 2))) / train.std((0, 1, 2))
    with torch.inference_mode():
        logits = network(torch.tensor(normalized, dtype=torch.float32).permute(0, 3, 1, 2))
    assert (logits.argmax(1).numpy() == labels).mean() > 0.9


@pytest.mark.parametrize(("seed", "split"), [(0, "train"), (1, "test")])
def test_its_images_are_those_that_its_script_draws(example, seed, split):
    drawn = runpy.run_path("make_example.py")["draw_split"](seed)
    numpy.testing.assert_array_equal(pixels(split)[0], numpy.concatenate([drawn[name] for name in sorted(drawn)]))
