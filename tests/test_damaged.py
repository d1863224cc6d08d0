"""Files that an earlier job wrote and something damaged since: one error that names the file."""

import os
import pathlib
import pickle
import shutil

import numpy
import pytest

from elagage.data import Dataset, Split
from elagage.errors import UserError
from elagage.pytorch.checkpoints import load_checkpoint
from summarize import eager_measurements


class Trap:
    """An object that creates a file when it is unpickled."""

    def __reduce__(self):
        return open, ("executed", "w")


CONTENTS = {
    "empty": b"",
    "text": b"text",
    "JSON of another program": b'{"name": "digits"}',
    "JSON list": b"[]",
    "binary": bytes(range(256)),
    "program": pickle.dumps(Trap()),
}


def read_labels(path: pathlib.Path) -> Split:
    images = path.with_name("images.npy")
    numpy.save(images, numpy.zeros((3, 1, 8, 8), numpy.uint8))
    return Split.read(images, path)


READERS = {
    "data set": Dataset.read,
    "images": lambda path: Split.read(path, path),
    "labels": read_labels,
    "checkpoint": load_checkpoint,
    "eager time": eager_measurements,
}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_a_file_of_another_content_is_named_and_not_executed(tmp_path, monkeypatch, read, content):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "damaged").write_bytes(content)
    with pytest.raises(UserError, match=r"damaged: damaged, or not a file of this study .*; delete it and run again"):
        read(tmp_path / "damaged")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("array", [numpy.zeros((3, 1, 8, 8)), numpy.zeros((3, 8), numpy.uint8)])
def test_an_array_that_holds_no_images_is_named(tmp_path, array):
    numpy.save(tmp_path / "images.npy", array)
    numpy.save(tmp_path / "labels.npy", numpy.arange(3))
    with pytest.raises(UserError, match=r"images\.npy: damaged"):
        Split.read(tmp_path / "images.npy", tmp_path / "labels.npy")


@pytest.mark.parametrize("array", [numpy.arange(2), numpy.zeros(3)])
def test_labels_that_do_not_fit_the_images_are_named(tmp_path, array):
    numpy.save(tmp_path / "labels.npy", array)
    with pytest.raises(UserError, match=r"labels\.npy: damaged"):
        read_labels(tmp_path / "labels.npy")


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_a_truncated_file_is_named(dataset, dense, tmp_path, share):
    for whole, read in ((dense, load_checkpoint), (dataset / "dataset.json", Dataset.read)):
        path = pathlib.Path(shutil.copy(whole, tmp_path / f"cut_{whole.name}"))
        os.truncate(path, int(share * path.stat().st_size))
        with pytest.raises(UserError, match=rf"{path.name}: damaged"):
            read(path)
