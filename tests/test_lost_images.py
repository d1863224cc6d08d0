"""The images that compression loses most often."""

import base64
import io

import numpy
import pytest
from PIL import Image

from elagage.data import Split
from elagage.files import read_json, write_json, write_refusal
from lost_images import SHOWN, THUMBNAIL, lost_images, thumbnail

CLASSES = ["a", "b", "c"]
IMAGES = 6
LABELS = numpy.zeros(IMAGES, numpy.int64)
PREDICTED = {  # of which `reference` is wrong on the last image, and `refused` was never made
    "reference": [0, 0, 0, 0, 0, 1],
    "small": [1, 2, 0, 0, 0, 1],
    "tiny": [1, 2, 2, 0, 0, 1],
    "fast": [1, 0, 1, 0, 0, 0],
    "other": [2, 0, 0, 0, 0, 2],
    "control": [1, 1, 1, 1, 1, 1],  # not compressed
}


def found(folder, predicted=None, images=IMAGES, names=()) -> dict:
    """Return what is written for these predictions; the answer is `small`, and by time `fast`."""
    dense = {"model": "net", "seed": 0, "rate": 0.0, "recovery": "", "mode": "float32"}
    named = {"reference": {}, "control": {"recovery": "finetune"}}
    files = [
        dense | named.get(name, {"rate": 0.5}) | {"file": name, "predictions": str(folder / f"{name}.npy")}
        for name in (*PREDICTED, "refused")
    ]
    for name, classes in (predicted or PREDICTED).items():
        numpy.save(folder / f"{name}.npy", numpy.array(classes, numpy.int32))
    write_refusal(folder / "refused.npy", "no channels")
    answers = {"file_size": {"file": "small"}, "time": {"file": "fast"}}
    write_json(folder / "answer.json", {"reference": {"file": "reference"}, "answers": answers})
    test = Split(numpy.arange(images * 48, dtype=numpy.uint8).reshape(images, 3, 4, 4), numpy.zeros(images, int))
    lost_images(files, folder / "answer.json", test, CLASSES, names, folder / "lost.json")
    return read_json(folder / "lost.json")


def test_images_are_listed_by_how_many_files_lose_what_the_reference_has_right(tmp_path):
    lost = found(tmp_path)
    assert lost["compared"] == 4
    assert [(row["index"], row["lost"]) for row in lost["images"]] == [(0, 4), (1, 2), (2, 2)]
    first = lost["images"][0]
    assert (first["class"], first["taken_for"]) == ("a", "b")
    assert first["predictions"] == {"file_size": "b", "time": "b"}
    assert lost["images"][1]["predictions"] == {"file_size": "c", "time": "a"}
    assert first["file"] is None


def test_images_of_a_folder_have_their_names(tmp_path):
    names = [f"test/a/{number}.png" for number in range(IMAGES)]
    assert [row["file"] for row in found(tmp_path, names=names)["images"]] == names[:3]


def test_a_file_is_compared_with_its_own_dense_network(tmp_path):
    rows = []
    for model, mistakes in (("good", []), ("poor", [0, 1, 2])):
        for rate, more in ((0.0, []), (0.5, [3])):
            predictions = numpy.zeros(IMAGES, numpy.int32)
            predictions[mistakes + more] = 1
            path = str(tmp_path / f"{model}{rate}.npy")
            numpy.save(path, predictions)
            row = {"model": model, "seed": 0, "rate": rate, "recovery": "", "mode": "float32"}
            rows.append(row | {"file": f"{model}{rate}", "predictions": path})
    write_json(tmp_path / "answer.json", {"answers": {"time": {"file": "good0.5"}}})
    test = Split(numpy.zeros((IMAGES, 1, 4, 4), numpy.uint8), LABELS)
    lost_images(rows, tmp_path / "answer.json", test, CLASSES, [], tmp_path / "lost.json")
    lost = read_json(tmp_path / "lost.json")
    assert (lost["compared"], [(row["index"], row["lost"]) for row in lost["images"]]) == (2, [(3, 2)])


def test_not_more_are_listed_than_people_look_at(tmp_path):
    predicted = {name: numpy.full(100, int(name != "reference")) for name in PREDICTED}
    assert len(found(tmp_path, predicted, images=100)["images"]) == SHOWN


def test_a_study_that_loses_nothing_lists_nothing(tmp_path):
    assert found(tmp_path, dict.fromkeys(PREDICTED, [0] * IMAGES))["images"] == []


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8), (3, 224, 224), (1, 300, 300)])
def test_a_thumbnail_is_the_image_or_a_smaller_one(shape):
    image = numpy.full(shape, 7, numpy.uint8)
    with Image.open(io.BytesIO(base64.b64decode(thumbnail(image)))) as read:
        assert read.size == (min(THUMBNAIL, shape[1]),) * 2
        assert read.mode == ("L" if len(image) == 1 else "RGB")
        assert (numpy.asarray(read) == 7).all()


def test_a_study_that_compresses_nothing_lists_nothing(tmp_path):
    dense = {"model": "net", "seed": 0, "rate": 0.0, "recovery": "", "mode": "float32", "file": "dense"}
    numpy.save(tmp_path / "dense.npy", numpy.zeros(IMAGES, numpy.int32))
    write_json(tmp_path / "answer.json", {"answers": {"time": {"file": "dense"}}})
    test = Split(numpy.zeros((IMAGES, 1, 4, 4), numpy.uint8), LABELS)
    rows = [dense | {"predictions": str(tmp_path / "dense.npy")}]
    lost_images(rows, tmp_path / "answer.json", test, CLASSES, [], tmp_path / "lost.json")
    assert read_json(tmp_path / "lost.json") == {"compared": 0, "images": []}
