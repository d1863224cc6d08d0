"""What several test files share."""

import dataclasses
import os
import pathlib
import subprocess
from collections.abc import Iterator

import numpy
import pytest
import torch

from elagage import job
from elagage.data import SPLITS, Dataset, PreparedData, Split
from elagage.files import write_json
from elagage.pytorch.checkpoints import save_dense
from elagage.pytorch.device import compute_reproducibly
from elagage.pytorch.models import build_network
from prune import prune

# As jobs compute. One thread: on a busy machine two wait for each other a hundred times longer than they compute.
compute_reproducibly(threads=1)

# Started last, they would run on one core while the other has nothing to do.
SLOWEST = ("test_workflow", "test_slurm", "test_qat", "test_kills", "test_bad_runs", "test_channels", "test_plot")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the slowest files first."""
    rank = {name: number for number, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(SLOWEST)))


@pytest.fixture(autouse=True)
def seed() -> None:
    """Let networks start from the same weights whichever tests ran before."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def notes(monkeypatch) -> None:
    """Let a note be said that a test before said, too: a job says each once."""
    monkeypatch.setattr(job, "_said", set())


@pytest.fixture(scope="session")
def dataset(tmp_path_factory) -> pathlib.Path:
    """Return a folder with a prepared data set: dataset.json, and <split>_images.npy and <split>_labels.npy.

    24 training, 9 validation and 12 test images, grey, 8x8 pixels, of three classes: noise that is brighter in the
    upper, middle or lower rows.
    """
    folder = tmp_path_factory.mktemp("data")
    random = numpy.random.default_rng(0)
    sizes = dict(zip(SPLITS, (24, 9, 12), strict=True))
    images = {}
    for split, size in sizes.items():
        labels = numpy.arange(size) % 3
        images[split] = random.integers(0, 100, (size, 1, 8, 8), dtype=numpy.uint8)
        for image, label in zip(images[split], labels, strict=True):
            image[:, 3 * label : 3 * label + 2] += 150
        numpy.save(folder / f"{split}_images.npy", images[split])
        numpy.save(folder / f"{split}_labels.npy", labels)
    mean, std = float(images["train"].mean() / 255), float(images["train"].std() / 255)
    description = Dataset("toy", ["top", "middle", "bottom"], 1, 8, [mean], [std], False, sizes, {})
    write_json(folder / "dataset.json", dataclasses.asdict(description))
    return folder


@pytest.fixture(scope="session")
def data(dataset) -> PreparedData:
    """Return what a job that trains reads of the data set."""
    train, validation = (read_split(dataset, name) for name in ("train", "validation"))
    return PreparedData(Dataset.read(dataset / "dataset.json"), train, validation)


@pytest.fixture(scope="session")
def held_out(dataset) -> Split:
    """Return the test images of the data set."""
    return read_split(dataset, "test")


def read_split(folder: pathlib.Path, name: str) -> Split:
    return Split.read(folder / f"{name}_images.npy", folder / f"{name}_labels.npy")


@pytest.fixture
def small_disk(tmp_path) -> Iterator[pathlib.Path]:
    """Yield a folder that is a disk of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def dense(tmp_path, data) -> pathlib.Path:
    """Return the checkpoint of a resnet8, for the data set, with weights that no training has seen."""
    path = tmp_path / "dense.safetensors"
    provenance = {"model": "mine", "validation_accuracy": 0.99, "torch": "1.0"}
    save_dense(path, build_network("resnet8", 3, 1, seed=1), data.dataset, provenance)
    return path


@pytest.fixture
def pruned(tmp_path, dense) -> pathlib.Path:
    """Return the checkpoint of the same network without 80 % of its weights."""
    path = tmp_path / "none.safetensors"
    prune(dense, scope="global", rate=0.8, checkpoint=path)
    return path
