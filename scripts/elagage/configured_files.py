"""What a configuration names is there: files, folders, enough images, runtimes."""

import importlib.util
import math
import os
import pathlib
from collections.abc import Callable, Mapping

from elagage.data import KNOWN_SIZES, OWN_SIZES, USUAL_IMAGES, check_classes
from elagage.errors import UserError
from elagage.image_folder import ImageFolder, scan_image_folder
from elagage.modes import CALIBRATED
from elagage.plan import Plan

MODEL_FILES = "architecture", "weights"
RECORDS = ".snakemake/metadata"  # where Snakemake keeps how each file was made, by which it finds what has changed


def check_runtimes(config: Mapping) -> None:
    """Raise UserError if a runtime that the configuration names is not installed."""
    for name in config["evaluation"]["runtimes"]:
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"configuration: evaluation.runtimes: {name} is not installed; run `make {name}`, or let Snakemake "
                f"install it (--sdm conda), or remove it from the list"
            )


def check_files(config: Mapping, note: Callable[[str], object] = print) -> None:
    """Raise UserError if a file or folder that the configuration names is missing, or has too few images.

    `note` is called with what the user should know of how images are split, left out or fewer than usual, and if
    results are there without Snakemake's records of them.
    """
    if os.path.exists("results") and not os.path.isdir("results"):
        raise UserError(f"there is a file 'results' in {os.getcwd()}, where the study makes a folder; rename it")
    if os.path.exists("results/data/dataset.json") and not any(pathlib.Path(RECORDS).glob("*")):
        note(
            f"results: {os.getcwd()} has no {RECORDS}, which says how they were made, so what has changed since goes "
            f"unnoticed; if anything may have, delete results/data and results/models, and run again"
        )
    dataset = config["dataset"]
    for key, path in (
        ("dataset.path", dataset["path"]),
        *((f"models.{name}.{key}", model[key]) for name, model in config["models"].items() for key in MODEL_FILES),
    ):
        if (path or "").startswith("~"):
            raise UserError(f"configuration: {key}: {path!r}: ~ is not expanded; write {os.path.expanduser(path)!r}")
    if dataset["name"] == "image_folder" and dataset["image_size"] is None:
        raise UserError("configuration: dataset.image_size: an image_folder needs a size in pixels, such as 32")
    for name, model in config["models"].items():
        resize, size = model["preprocessing"]["resize"], dataset["image_size"] or OWN_SIZES[dataset["name"]]
        if isinstance(resize, int) and resize < size:
            raise UserError(
                f"configuration: models.{name}.preprocessing.resize: {resize} is less than the {size} pixels of "
                f"dataset.image_size, to which images are cropped after it; state {size} or more"
            )
        file, _, function = model["architecture"].rpartition(":")
        if function and file and not os.path.isfile(file):
            raise UserError(f"configuration: models.{name}.architecture: there is no file {file!r} in {os.getcwd()}")
        if model["weights"] is None:
            continue
        if pathlib.Path(os.path.realpath(model["weights"])).is_relative_to(os.path.realpath(f"results/models/{name}")):
            raise UserError(
                f"configuration: models.{name}.weights: {model['weights']!r} is where the study writes this model; "
                f"move the file out of results/"
            )
        if not os.path.isfile(model["weights"]):
            raise UserError(
                f"configuration: models.{name}.weights: there is no file {model['weights']!r} in {os.getcwd()}"
            )
    folder = scan_image_folder(dataset["path"]) if dataset["name"] == "image_folder" else None
    if folder:
        for name, model in config["models"].items():
            if model["classes"] is not None:
                check_classes(model["classes"], folder.classes, f"configuration: models.{name}.classes")
    _check_counts(config, folder, note)


def _image_counts(dataset: Mapping, folder: ImageFolder | None) -> tuple[dict[str, int], list[str]]:
    """Return the images of each split before any is decoded, and what is to be known of them."""
    if folder is None:
        (train, test), given, notes = KNOWN_SIZES[dataset["name"]], None, []
    else:
        sizes = {split: len(files) for split, files in folder.splits.items()}
        train, test, given, notes = sizes["train"], sizes["test"], sizes.get("validation"), folder.notes
    validation = math.ceil(train * dataset["validation_fraction"]) if given is None else given
    return {"train": train - (validation if given is None else 0), "validation": validation, "test": test}, notes


def _check_counts(config: Mapping, folder: ImageFolder | None, note: Callable[[str], object]) -> None:
    """Raise UserError if more images are stated than there will be; note where fewer than usual are there."""
    counts, notes = _image_counts(config["dataset"], folder)
    calibrated = {*CALIBRATED, "qat"} & set(config["quantization"]["modes"])
    recoveries = Plan(config).all_recoveries
    uses = {  # key -> split that it takes images of
        "quantization.calibration_images": "train" if calibrated else None,
        "retraining.batchnorm_images": "train" if "batchnorm" in recoveries else None,
        "retraining.reconstruct_images": "train" if "reconstruct" in recoveries else None,
        "sensitivity.images": "validation",
        "evaluation.latency_images": "test",
    }
    mistakes = []
    for key, split in uses.items():
        table, _, name = key.partition(".")
        asked, there = config[table][name], counts[split] if split else None
        if there is not None and asked is not None and asked > there:
            mistakes.append(
                f"configuration: {key}: {asked} images asked for, but there are only {there} {split} images; lower it"
            )
        elif there is not None and asked is None and there < USUAL_IMAGES[key] and key != "sensitivity.images":
            notes.append(f"{key}: all {there} {split} images are taken, fewer than the usual {USUAL_IMAGES[key]}")
    if mistakes:
        raise UserError("\n".join(mistakes))
    for text in notes:
        note(text)
