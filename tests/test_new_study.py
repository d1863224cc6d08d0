"""`make new`: the study that it writes is valid, suits the photos, and replaces nothing."""

import pathlib
import subprocess
import sys

import pytest
import torch
import yaml
from PIL import Image
from runners import planned

from elagage.configuration import configuration
from elagage.configuration_file import read_file
from elagage.configured_files import check_files
from elagage.errors import UserError
from elagage.pytorch.models import build_network

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "tools"))

from new_study import image_size, new_study

REPOSITORY = pathlib.Path(__file__).parent.parent
SCHEMA = REPOSITORY / "workflow/schemas/config.schema.yaml"
EXAMPLE = REPOSITORY / "examples/own_model"


@pytest.fixture
def photos(tmp_path) -> pathlib.Path:
    """Return a folder of 20 photos of two classes, 48x40 pixels, without a split."""
    folder = tmp_path / "my photos"
    for name, colour in (("cat", "red"), ("dog", "blue")):
        (folder / name).mkdir(parents=True)
        for index in range(10):
            Image.new("RGB", (48, 40), colour).save(folder / name / f"{index}.png")
    return folder


def written(study: pathlib.Path, monkeypatch) -> dict:
    """Return the configuration of a new study, checked in its folder as `make study` checks it."""
    monkeypatch.chdir(study)
    found = configuration([read_file("study.yaml")], SCHEMA)
    check_files(found)
    return found


def test_a_study_of_photos_alone_trains_a_network_of_ours(photos, tmp_path, monkeypatch, capsys):
    config = new_study(str(tmp_path / "study"), str(photos), "resnet20", None)
    found = written(config.parent, monkeypatch)
    assert found["dataset"]["path"] == str(photos)
    assert found["dataset"]["image_size"] == 40
    assert found["models"]["resnet20"]["weights"] is None
    assert found["pruning"]["recovery"] == ["finetune"]
    said = capsys.readouterr().out
    assert "2 classes: cat, dog" in said and "16 training and 4 test photos" in said


def test_given_weights_are_not_trained(tmp_path, monkeypatch, capsys):
    model, weights = f"{EXAMPLE}/my_model.py:build", f"{EXAMPLE}/my_weights.safetensors"
    new_study(str(tmp_path), f"{EXAMPLE}/images", model, weights)
    found = written(tmp_path, monkeypatch)
    said = capsys.readouterr().out
    assert "is a guess; say in" in said and "if the weights have seen them" not in said
    assert found["models"]["mine"]["weights"] == weights
    assert set(found["pruning"]["recovery"]) == {"none", "reconstruct"}
    assert set(found["quantization"]["modes"]) == {"float32", "static"}


def test_photos_that_weights_may_have_seen_are_told(photos, tmp_path, capsys):
    new_study(str(tmp_path / "study"), str(photos), f"{EXAMPLE}/my_model.py:build", f"{EXAMPLE}/my_weights.safetensors")
    assert f"the test photos are drawn from {photos}: if the weights have seen them" in capsys.readouterr().out


@pytest.mark.parametrize("model", ["torchvision:mobilenet_v3_small", "torchvision.models:mobilenet_v3_small"])
def test_a_network_of_torchvision_is_built_for_the_classes(photos, tmp_path, monkeypatch, model):
    new_study(str(tmp_path / "study"), str(photos), model, None)
    found = written(tmp_path / "study", monkeypatch)
    network = build_network(found["models"]["mobilenet_v3_small"]["architecture"], 2, 3).eval()
    assert network(torch.zeros(1, 3, 40, 40)).shape == (1, 2)
    with pytest.raises(UserError, match="save the photos in colour"):
        build_network(found["models"]["mobilenet_v3_small"]["architecture"], 2, 1)


def test_paths_below_the_study_are_relative_to_it(photos, monkeypatch):
    monkeypatch.chdir(photos)
    config = new_study("..", str(photos), "resnet8", None)
    assert yaml.safe_load(config.read_text())["dataset"]["path"] == "my photos"
    written(photos.parent, monkeypatch)


@pytest.mark.parametrize("name", ["study.yaml", "my_model.py"])
def test_nothing_is_replaced(photos, tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=f"{name}: is there already"):
        new_study(str(tmp_path), str(photos), "torchvision:resnet18", None)
    assert (tmp_path / name).read_text() == "mine"
    assert not ({"study.yaml", "my_model.py"} - {name}) & {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize(
    ("model", "weights", "message"),
    [
        ("nowhere.py:build", None, "there is no file 'nowhere.py'"),
        ("torchvision:mobilnet", None, "torchvision has no such network; it has mobilenet_v2"),
        ("resnet20", "nowhere.pt", "WEIGHTS=nowhere.pt: there is no such file"),
        ("resnet21", None, r"resnet21"),
    ],
)
def test_a_mistake_is_named_and_nothing_is_written(photos, tmp_path, model, weights, message):
    with pytest.raises(UserError, match=message):
        new_study(str(tmp_path / "study"), str(photos), model, weights)
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("side", "source", "size"),
    [(4000, "built in", 64), (4000, "torchvision", 224), (50, "built in", 48), (16, "torchvision", 32), (5, "file", 8)],
)
def test_images_are_as_large_as_half_of_the_photos_or_as_the_network_is_made_for(side, source, size):
    assert image_size([1, side, 5000], source) == size


@pytest.mark.slow
def test_the_command_writes_a_study_that_can_be_planned(photos, tmp_path):
    study = tmp_path / "study"
    command = [sys.executable, str(REPOSITORY / "tools/new_study.py"), str(study), str(photos)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert f"make study CONFIG='{study}/study.yaml'" in done.stdout
    snakefile = str(REPOSITORY / "workflow/Snakefile")
    assert planned(study, "all", "--snakefile", snakefile, "--configfile", "study.yaml")["train"] == 1
