"""Write the folder of a study of one's own photos: python tools/new_study.py --help, or `make new`."""

import argparse
import contextlib
import difflib
import json
import os
import pathlib
import re
import statistics
import sys
from typing import NamedTuple

import yaml
from PIL import Image

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "scripts"))

from elagage.certifiable import certifiable
from elagage.configuration import configuration
from elagage.errors import UserError
from elagage.files import whole_file
from elagage.image_folder import scan_image_folder

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
SCHEMA = REPOSITORY / "workflow/schemas/config.schema.yaml"
SAMPLE = 500  # photos of which the size is read
STEPS = 1500  # of training, at least, unless that takes more than 100 epochs
# Largest image_size, in pixels, by where the network comes from: what it is made for.
LARGEST = {"built in": 64, "torchvision": 224, "timm": 224, "file": 224}
LIBRARIES = {
    "torchvision": "torchvision.models.get_model({name!r}, weights=None, num_classes=num_classes)",
    "timm": "timm.create_model({name!r}, pretrained=False, num_classes=num_classes, in_chans=in_channels)",
}
CODE = '''"""{name} of {library}, for the classes of the photos."""

import {library}
from torch import nn


def build(num_classes: int, in_channels: int) -> nn.Module:
    """Return the network, which takes float32 images [batch, in_channels, height, width]."""
{grey}    return {call}
'''
COLOUR_ONLY = """    if in_channels != 3:
        raise ValueError("torchvision's networks take colour images: save the photos in colour")
"""
GIVEN = """\
# The weights are taken as they are: nothing is trained.
models:
  mine:
    architecture: {architecture}
    weights: {weights}
    # How its training made images: `imagenet` for most of torchvision and timm, else `half`, `none` or `dataset`.
    normalization: imagenet
    # With image_size 224 for torchvision's Resize(256) and CenterCrop(224):
    # preprocessing: {{resize: 256}}
    # The order of its outputs, if it is not that of the folders' names:
    # classes: {classes}
    # If the weights were trained on all photos of train/, so that none is left to choose files by:
    # validation: seen
    # Its accuracy on the test photos, if you know it: the study stops if it is fed in another way than in its training.
    # accuracy: 0.9
pruning:
  scopes: [local, global, channel] # single weights, or whole channels, for a file that is smaller and faster as it is
  rates: [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
  recovery: [none, reconstruct] # `finetune` trains, and gets further
"""
TRAINED = """\
# It is trained from the beginning. With weights that were trained on these {count} classes, `weights: file` below the
# architecture, it is not. Those of ImageNet have 1,000 classes, and do not fit.
models:
  {name}:
    architecture: {architecture}
training: {{epochs: {epochs}, batch_size: {batch_size}}}
pruning:
  scopes: [global, channel] # single weights, for a small packed file; whole channels, for a small and fast file
  rates: [0.0, 0.3, 0.5, 0.7, 0.9]
  recovery: [finetune] # retrains what is left
"""
STUDY = """\
# {photos} photos of {count} classes. Every key and its default is in {manual}.
# image_size: half of the photos have {side:.0f} pixels or less at the shorter side. Given weights need their own.
dataset: {{name: image_folder, path: {path}, image_size: {size}{validation}}}
seeds: [0] # [0, 1, 2] shows how much training itself varies
{models}quantization: {{modes: [float32, static]}} # `qat` trains for int8; `dynamic` is for linear layers
answer: {{maximum_accuracy_loss: 1.0}} # points of accuracy that you may lose
"""


class Network(NamedTuple):
    """The network of a study: what `architecture` says, where it comes from, and the file to write for it, if any."""

    architecture: str
    source: str
    code: str | None


def network(model: str, folder: pathlib.Path) -> Network:
    """Return the network that a user names: one of Elagage's, `torchvision:name`, `timm:name` or `file.py:function`."""
    file, _, name = model.rpartition(":")
    library = file.removesuffix(".models")
    if library in LIBRARIES:
        check_name(library, name)
        grey = COLOUR_ONLY if library == "torchvision" else ""
        code = CODE.format(name=name, library=library, grey=grey, call=LIBRARIES[library].format(name=name))
        return Network("my_model.py:build", library, code)
    if not file:
        return Network(model, "built in", None)
    if not pathlib.Path(file).is_file():
        raise UserError(
            f"MODEL={model}: there is no file {file!r} in {os.getcwd()}; name file.py:function, torchvision:name, "
            f"timm:name or one of Elagage's networks such as resnet20"
        )
    return Network(f"{from_folder(file, folder)}:{name}", "file", None)


def check_name(library: str, name: str) -> None:
    """Raise UserError if the library is not installed or has no network of that name."""
    try:
        if library == "timm":
            import timm

            names = timm.list_models()
        else:
            import torchvision

            names = torchvision.models.list_models(module=torchvision.models)
    except ImportError as error:
        raise UserError(
            f"MODEL={library}:{name}: {library} is not installed; '{sys.executable} -m pip install {library}' does it"
        ) from error
    if name not in names:
        near = difflib.get_close_matches(name, names, n=5, cutoff=0.4) or names[:5]
        raise UserError(f"MODEL={library}:{name}: {library} has no such network; it has {', '.join(near)}, ...")


def from_folder(path: str, folder: pathlib.Path) -> str:
    """Return a path as the configuration names it: from the study's folder if it lies in it, else absolute."""
    absolute = pathlib.Path(os.path.abspath(path))
    return str(absolute.relative_to(folder) if absolute.is_relative_to(folder) else absolute)


def shorter_sides(files: list[pathlib.Path]) -> list[int]:
    """Return the shorter sides, in pixels, of up to SAMPLE of these photos; those that cannot be read are left out."""
    sides = []
    for file in files[:: -(-len(files) // SAMPLE)]:
        try:
            with Image.open(file) as image:
                sides.append(min(image.size))
        except Exception:  # which the study says, with the name of the file
            continue
    return sides


def new_study(study: str, photos: str, model: str, weights: str | None) -> pathlib.Path:
    """Write study.yaml, and my_model.py for a network of a library, into the folder; return the configuration's path.

    Raises UserError if one of them is there already, or if what is named is not.
    """
    folder = pathlib.Path(os.path.abspath(study))
    config, code = folder / "study.yaml", folder / "my_model.py"
    built = network(model, folder)
    for file in (config, *([code] if built.code else [])):
        if file.exists():
            raise UserError(f"{file}: is there already, and stays; name another folder with STUDY=, or remove the file")
    if weights is not None and not pathlib.Path(weights).is_file():
        raise UserError(f"WEIGHTS={weights}: there is no such file in {os.getcwd()}")
    found = scan_image_folder(photos)
    train, test = ([file for file, _ in found.splits[split]] for split in ("train", "test"))
    sides = shorter_sides(train)
    if not sides:
        raise UserError(f"PHOTOS={photos}: none of the photos can be read")
    size = image_size(sides, built.source)
    # Validation photos of each class, also where there are few.
    few = "validation" not in found.splits and len(train) < 20 * len(found.classes)
    text = STUDY.format(
        photos=f"{len(train):,} training and {len(test):,} test",
        count=len(found.classes),
        manual=REPOSITORY / "config/README.md",
        path=json.dumps(from_folder(photos, folder), ensure_ascii=False),
        size=size,
        validation=", validation_fraction: 0.2" if few else "",
        side=statistics.median(sides),
        models=models(built, model, found.classes, len(train), weights and from_folder(weights, folder)),
    )
    with contextlib.chdir(folder if folder.is_dir() else "."):  # a new folder holds nothing that the text names
        asked = configuration([yaml.safe_load(text)], SCHEMA)
    write(config, text)
    if built.code:
        write(code, built.code)
    for note in found.notes:
        print(f"note: {note}")
    print(f"{len(found.classes)} classes: {', '.join(found.classes[:10])}{', ...' * (len(found.classes) > 10)}")
    print(f"{len(train):,} training and {len(test):,} test photos, to be scaled to {size}x{size} pixels")
    print(certifiable(asked["answer"], len(test)))
    if weights is not None:
        print(f"note: image_size: {size} is a guess; say in {config} which size the weights were trained with")
        if found.test_is_drawn:
            print(
                f"note: the test photos are drawn from {photos}: if the weights have seen them, neither the accuracy "
                "nor the answer is true; give them a folder test/ of photos that the weights have not seen"
            )
    return config


def image_size(sides: list[int], source: str) -> int:
    """Return the size of the images, a multiple of 8: that of half of the photos, or what the network is made for.

    sides: the photos' shorter sides, in pixels; source: key of LARGEST.
    """
    least = 8 if source in ("built in", "file") else 32
    return max(least, 8 * int(min(LARGEST[source], statistics.median(sides)) // 8))


def models(built: Network, model: str, classes: list[str], images: int, weights: str | None) -> str:
    """Return the lines on the network, its training and its pruning; images: how many are for training."""
    architecture = json.dumps(built.architecture, ensure_ascii=False)
    if weights is not None:
        listed = json.dumps(classes, ensure_ascii=False)
        return GIVEN.format(architecture=architecture, weights=json.dumps(weights, ensure_ascii=False), classes=listed)
    batch_size = 128 if images >= 5000 else 32 if images >= 200 else 8  # small batches, for enough steps
    epochs = min(100, max(30, -(-STEPS * batch_size // images)))
    return TRAINED.format(
        count=len(classes),
        name="mine" if built.source == "file" else re.sub(r"\W", "_", model.rpartition(":")[2]),
        architecture=architecture,
        epochs=epochs,
        batch_size=batch_size,
    )


def write(path: pathlib.Path, text: str) -> None:
    """Write a file, whole or not at all, and its folder if it is new."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def main() -> None:
    """Read the command line, write the study and say how it goes on."""
    parser = argparse.ArgumentParser(prog="make new", description=__doc__)
    parser.add_argument(
        "study", metavar="STUDY", type=os.path.expanduser, help="folder of the study, which is made if it is not there"
    )
    parser.add_argument(
        "photos",
        metavar="PHOTOS",
        type=os.path.expanduser,
        help="folder of photos: <class>/*, or train/<class>/* and test/<class>/*",
    )
    parser.add_argument(
        "--model",
        metavar="MODEL",
        type=os.path.expanduser,
        default="resnet20",
        help="torchvision:name, timm:name, file.py:function or a network of Elagage (default: resnet20)",
    )
    parser.add_argument(
        "--weights",
        metavar="WEIGHTS",
        type=os.path.expanduser,
        help="file of weights that were trained on these classes",
    )
    arguments = parser.parse_args()
    if not arguments.study or not arguments.photos:
        parser.error("name both: make new STUDY=folder PHOTOS=folder")
    try:
        config = new_study(arguments.study, arguments.photos, arguments.model, arguments.weights)
    except UserError as error:
        sys.exit(f"error: {error}")
    print(f"wrote {config}; look at it, then\n")
    print(f"  make check CONFIG='{config}'    # says in a minute what is possible, and how long it takes")
    print(f"  make study CONFIG='{config}'")


if __name__ == "__main__":
    main()
