"""What each file loses against the answer's reference, its own dense network and its control, image by test image."""

import math
import os
from collections.abc import Iterable, Mapping

import numpy
import pandas

from elagage.files import reading
from elagage.measurements import is_dense
from elagage.noninferiority import images_to_tell, loss_bounds

POINTS = 100  # in a share
TIMES = ("time_low_ms", "time_ms", "time_high_ms")  # as the answer compares them


def points(column: str, reference: numpy.ndarray, other: numpy.ndarray, confidence: float) -> dict[str, float]:
    """Return the loss and its two bounds in points of accuracy; reference, other: bool [n], whether correct."""
    lost, won = int((reference & ~other).sum()), int((~reference & other).sum())
    low, high = loss_bounds(lost, won, len(reference), confidence)
    shares = {"points": (lost - won) / len(reference), "low": low, "high": high}
    return {f"{column}_{name}": POINTS * share for name, share in shares.items()}


def loss_against(
    column: str, reference: numpy.ndarray | None, predicted: numpy.ndarray, labels: numpy.ndarray, confidence: float
) -> dict[str, float | None]:
    """Return the loss against what another file predicted, int [n], with its bounds; None where there is none.

    A file against itself loses nothing, for certain.
    """
    names = [f"{column}_{name}" for name in ("points", "low", "high")]
    if reference is None:
        return dict.fromkeys(names)
    if reference is predicted:
        return dict.fromkeys(names, 0.0)
    return points(column, reference == labels, predicted == labels, confidence)


def verdict(low: float, high: float, margin: float) -> str:
    """Return in words what the bounds of a loss say of the margin; all in points."""
    return "within" if high < margin else "beyond" if low > margin else "too few images to tell"


def worst_class(
    reference: numpy.ndarray, predicted: numpy.ndarray, labels: numpy.ndarray, classes: list[str], confidence: float
) -> dict:
    """Return the class whose images lose most, and the loss in points with bounds that hold for all classes at once.

    reference, predicted, labels: numbers of classes, int [n]. Each class has its share of what the bounds may be
    wrong (Bonferroni), because the worst one is picked from all.
    """
    of_class = [labels == number for number in range(len(classes))]
    lost = (reference == labels).astype(int) - (predicted == labels)
    losses = [lost[there].sum() for there in of_class]
    shares = [loss / there.sum() if there.any() else -numpy.inf for loss, there in zip(losses, of_class, strict=True)]
    worst = int(numpy.argmax(shares))
    there, each = of_class[worst], 1 - (1 - confidence) / len(classes)
    of_worst = reference[there]
    itself = of_worst if reference is predicted else predicted[there]
    return {"worst_class": classes[worst]} | loss_against("worst_class_loss", of_worst, itself, labels[there], each)


def macro_recall(correct: numpy.ndarray, labels: numpy.ndarray) -> float:
    """Return the mean over the classes of the share of their images that are correct; correct: bool [n]."""
    return float(numpy.mean([correct[labels == number].mean() for number in numpy.unique(labels)]))


def compared(
    predicted: numpy.ndarray,
    reference: numpy.ndarray,
    dense: numpy.ndarray,
    control: numpy.ndarray | None,
    labels: numpy.ndarray,
    classes: list[str],
    answer: Mapping,
) -> dict:
    """Return the columns of a file.

    predicted, reference, dense, control, labels: the numbers of classes, int [n], on test images; dense: predicted by
    the dense float32 file of the same model and seed; control: by the file of the same mode whose dense network trained
    as much longer, None for a file that did not train after pruning.
    """
    confidence, margin = answer["confidence"], answer["maximum_accuracy_loss"]
    correct, right = predicted == labels, reference == labels
    lost, won = int((right & ~correct).sum()), int((~right & correct).sum())
    loss = loss_against("loss", reference, predicted, labels, confidence)
    told = verdict(loss["loss_low"], loss["loss_high"], margin)
    needed = images_to_tell(lost, won, len(labels), margin / POINTS, confidence)
    return {
        **loss,
        "verdict": told,
        # Of the others there are enough, and of a loss that is the margin no number tells; nor does the approximation
        # of a few images, where it says that there are enough.
        "images_to_tell": round(needed) if told.startswith("too few") and len(labels) < needed < math.inf else None,
        **loss_against("dense_loss", dense, predicted, labels, confidence),
        **loss_against("control_loss", control, predicted, labels, confidence),
        "agreement": float((predicted == reference).mean()),
        "became_wrong": lost,
        "became_right": won,
        **worst_class(reference, predicted, labels, classes, confidence),
        "macro_recall": macro_recall(correct, labels),
    }


def losses(
    files: Iterable[Mapping],
    predicted: Mapping[str, numpy.ndarray],
    order: Mapping,
    labels: numpy.ndarray,
    classes: list[str],
    answer: Mapping,
) -> list[dict]:
    """Return a row per file that has predictions.

    files: of Plan.files; predicted: file -> numbers of classes, int [n], on test images; order: what the rule order
    wrote; labels: int [n]; answer: the table of the configuration.
    """
    reference = order["reference"]
    times = {row["file"]: dict(zip(TIMES, row["costs"]["time"], strict=True)) for row in order["files"]}
    there = [row for row in files if row["file"] in predicted]
    dense = {(row["model"], row["seed"]): predicted[row["file"]] for row in filter(is_dense, there)}
    return [
        {"file": row["file"], "reference": reference}
        | times[row["file"]]
        | compared(
            predicted[row["file"]],
            predicted[reference],
            dense[row["model"], row["seed"]],
            predicted.get(row["control"]),
            labels,
            classes,
            answer,
        )
        for row in there
    ]


def read_losses(path: str | os.PathLike) -> pandas.DataFrame:
    """Return losses.csv by file, with missing numbers only where its columns may lack them."""
    optional = ["images_to_tell", *(f"control_loss_{name}" for name in ("points", "low", "high"))]
    with reading(path):
        # A class may be called NA, or 007.
        missing = {column: [""] for column in optional}
        names = dict.fromkeys(("file", "reference", "worst_class", "verdict"), str)
        table = pandas.read_csv(path, dtype=names, keep_default_na=False, na_values=missing, index_col="file")
        return table.astype(dict.fromkeys(("images_to_tell", "became_wrong", "became_right"), "Int64"))
