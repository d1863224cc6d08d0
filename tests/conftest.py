"""What several test files share."""

import dataclasses
import os
import pathlib
import subprocess
from collections.abc import Iterator

import numpy
import pytest

from elagage.data import SPLITS, Dataset
from elagage.files import write_json
from elagage.pytorch.checkpoints import save_checkpoint
from elagage.pytorch.models import build_network
from elagage.pytorch.training_state import TrainingState
from prune import prune


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


@dataclasses.dataclass(frozen=True)
class DiesAfter(TrainingState):
    """A state whose process is killed right after it was saved so many times."""

    saves: list

    def save(self, content) -> None:
        super().save(content)
        self.saves.pop()
        if not self.saves:
            raise Killed


# Minutes each, of the 20 that all tests take: started last, they would run on one core alone.
SLOWEST = ("test_workflow", "test_slurm", "test_qat", "test_kills", "test_bad_runs", "test_channels", "test_plot")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the slowest files first."""
    rank = {name: number for number, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(SLOWEST)))


@pytest.fixture
def dataset(tmp_path) -> pathlib.Path:
    """Return a folder with a prepared data set: dataset.json, and <split>_images.npy and <split>_labels.npy.

    24 training, 9 validation and 12 test images, grey, 8x8 pixels, of three classes: noise that is brighter in the
    upper, middle or lower rows.
    """
    folder = tmp_path / "data"
    folder.mkdir()
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
def dense(tmp_path, dataset) -> pathlib.Path:
    """A resnet8 with weights that no training has seen."""
    path = tmp_path / "dense.safetensors"
    provenance = {"model": "mine", "validation_accuracy": 0.99, "torch": "1.0"}
    save_checkpoint(path, build_network("resnet8", 3, 1, seed=1).state_dict(), provenance)
    return path


@pytest.fixture
def pruned(tmp_path, dataset, dense) -> pathlib.Path:
    path = tmp_path / "none.safetensors"
    prune(dataset / "dataset.json", dense, "resnet8", "global", 0.8, path)
    return path
