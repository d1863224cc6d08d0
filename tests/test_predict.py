"""predict.py, which lies beside a deployed model: the pixels of the study, the right classes, few requirements."""

import importlib.metadata
import itertools
import pathlib
import re
import subprocess
import sys

import numpy
import onnx
import pytest
from onnx.helper import make_graph, make_model, make_node, make_tensor_value_info
from PIL import Image
from runners import SCRIPTS

from elagage.data import Dataset
from elagage.errors import UserError
from elagage.geometry import COVER, Geometry
from elagage.onnx.deployed import write_deployed
from elagage.onnx.predict import pixels
from elagage.photo import read_image

PROGRAM = SCRIPTS / "elagage/onnx/predict.py"
CLASSES = ["top", "bottom, or so"]
GEOMETRIES = [COVER, Geometry(20, "bicubic"), Geometry("squash", "lanczos"), Geometry(16, "nearest")]
SHAPES = {"landscape": (47, 31), "tall": (9, 140), "small": (5, 4), "square": (16, 16)}


def photo(mode: str, shape: tuple[int, int]) -> Image.Image:
    noise = numpy.random.default_rng(0).integers(0, 256, (shape[1], shape[0], 4), dtype=numpy.uint8)
    return Image.fromarray(noise, "RGBA").convert("RGB").convert(mode)


def rotated(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


PHOTOS = {
    "grey.png": lambda shape: photo("L", shape),
    "transparent_grey.png": lambda shape: photo("LA", shape),
    "bits.png": lambda shape: photo("1", shape),
    "palette.gif": lambda shape: photo("P", shape),
    "transparent.png": lambda shape: photo("RGBA", shape),
    "colour.jpg": lambda shape: photo("RGB", shape),
    "printed.jpg": lambda shape: photo("CMYK", shape),
    "colour.webp": lambda shape: photo("RGB", shape),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", PHOTOS)
def test_a_photo_has_the_pixels_of_the_study(tmp_path, name, shape):
    for geometry, orientation in itertools.product(GEOMETRIES, (1, 6, 7)):
        PHOTOS[name](SHAPES[shape]).save(tmp_path / name, exif=rotated(orientation))
        read = read_image(tmp_path / name, 16, geometry)
        grey = read.ndim == 2
        expected = numpy.stack([read] * 3) if grey else read.transpose(2, 0, 1)
        assert numpy.array_equal(pixels(tmp_path / name, 3, 16, *geometry)[0], expected)
        if grey:
            assert numpy.array_equal(pixels(tmp_path / name, 1, 16, *geometry)[0, 0], read)


@pytest.mark.parametrize("mode", ["I;16", "F"])
def test_photos_that_a_study_refuses_are_refused(tmp_path, mode):
    file = tmp_path / "deep.tiff"
    Image.fromarray(numpy.zeros((20, 20), {"I;16": numpy.uint16, "F": numpy.float32}[mode])).save(file)
    with pytest.raises(UserError, match="more than 8 bits"):
        read_image(file, 16)
    with pytest.raises(ValueError, match="more than 8 bits"):
        pixels(file, 1, 16, *COVER)


def test_a_colour_photo_is_grey_for_a_grey_network_and_old_pillow_may_lack_formats(tmp_path, monkeypatch):
    photo("RGB", (30, 20)).save(tmp_path / "1.png")
    grey = read_image(tmp_path / "1.png", 20).dot([0.299, 0.587, 0.114])
    monkeypatch.delitem(Image.OPEN, "QOI")
    numpy.testing.assert_allclose(pixels(tmp_path / "1.png", 1, 20, *COVER)[0, 0], grey, atol=2)


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
    """A folder to deploy: predict.py and a network that tells whether the upper or the lower half is brighter."""
    weights = numpy.repeat(numpy.array([[1.0, 0.0], [0.0, 1.0]], numpy.float32), 32, axis=0) / 255
    graph = make_graph(
        [
            make_node("Cast", ["image"], ["cast"], to=onnx.TensorProto.FLOAT),
            make_node("Flatten", ["cast"], ["flat"]),
            make_node("MatMul", ["flat", "weights"], ["logits"]),
        ],
        "halves",
        [make_tensor_value_info("image", onnx.TensorProto.UINT8, ["batch", 1, 8, 8])],
        [make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", 2])],
        [onnx.numpy_helper.from_array(weights, "weights")],
    )
    model = make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    dataset = Dataset("toy", CLASSES, 1, 8, [0.0], [1.0], False, {}, {})
    write_deployed(tmp_path / "model.onnx", model, dataset, {"model": "halves"})
    (tmp_path / "predict.py").write_bytes(PROGRAM.read_bytes())
    upper = numpy.zeros((8, 8), numpy.uint8)
    upper[:4] = 20
    Image.fromarray(upper).save(tmp_path / "up.png")
    Image.fromarray(upper[::-1]).resize((80, 60)).convert("RGB").save(tmp_path / "down.jpg")
    return tmp_path


def requirements(name: str) -> set[str]:
    """Return the names of a distribution and of all that it requires, directly or not."""
    stated = [text for text in importlib.metadata.requires(name) or [] if "extra ==" not in text]
    return {name}.union(*(requirements(re.match(r"[\w.-]+", text)[0]) for text in stated))


@pytest.fixture
def bare(tmp_path) -> pathlib.Path:
    """A folder of packages that holds ONNX Runtime, NumPy, Pillow, and what these require, as links."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for name in set().union(*map(requirements, ("onnxruntime", "numpy", "pillow"))):
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or [] if file.parts[0] != ".."} - {"__pycache__"}:
            if not (packages / top).exists():
                (packages / top).symlink_to(distribution.locate_file(top))
    return packages


def predict(folder: pathlib.Path, packages: pathlib.Path, *words: str) -> subprocess.CompletedProcess:
    """Run predict.py in the folder with these packages only: -S leaves out those that are installed."""
    code = f"import runpy, sys; sys.path.append({str(packages)!r}); runpy.run_path('predict.py', run_name='__main__')"
    command = [sys.executable, "-S", "-I", "-c", code, *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_it_needs_nothing_but_onnxruntime_numpy_and_pillow(folder, bare):
    run = predict(folder, bare, "up.png", "down.jpg")
    assert run.returncode == 0, run.stderr
    first, second = run.stdout.splitlines()
    # The logits differ by 32 pixels of 20 / 255, so the probability is 1 / (1 + exp(-2.51)).
    assert first == "up.png: top 92.5%"
    assert re.fullmatch(r"down\.jpg: bottom, or so 9\d\.\d%", second)
    assert "usage: " in predict(folder, bare, "--help").stdout
    assert "No module named 'numpy'" in predict(folder, folder / "empty", "up.png").stderr


def test_what_is_no_image_is_named_and_the_rest_is_classified(folder):
    (folder / "note.png").write_text("no image")
    (folder / "drawing.ps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    bad = ["note.png", "drawing.ps", "absent.jpg"]
    run = subprocess.run(
        [sys.executable, "predict.py", *bad, "up.png"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert run.stdout.startswith("up.png: top")
    assert [line.split(":")[1].strip() for line in run.stderr.splitlines()] == bad


@pytest.mark.parametrize("content", [None, b"", b"no model"])
def test_without_a_model_it_says_what_to_do(folder, content):
    (folder / "model.onnx").unlink()
    if content is not None:
        (folder / "model.onnx").write_bytes(content)
    run = subprocess.run([sys.executable, "predict.py", "up.png"], cwd=folder, capture_output=True, text=True)
    assert run.returncode == 1
    assert re.fullmatch(r"error: \S*model\.onnx: not a model of Elagage .* name one with --model", run.stderr.strip())
