"""Choose the answer's reference, and the order in which files will be certified, by validation images and costs.

No label and no prediction of a test image is read: what is certified on test images must not have been chosen by them.
"""

from collections.abc import Iterable, Mapping

import numpy

from elagage.certification import sequence
from elagage.data import read_labels, read_predictions
from elagage.files import read_json, refusal, write_json
from elagage.job import job
from elagage.measurements import costs, is_dense
from elagage.noninferiority import log_chance_to_pass
from elagage.objectives import OBJECTIVES


def reference_of(
    files: Iterable[Mapping], correct: Mapping[str, numpy.ndarray], model: str | None, seen: list[str]
) -> str:
    """Return the dense float32 file, of this model or of any, that is correct on most validation images.

    seen: models whose weights were trained on these images; others are preferred, as theirs tell more.
    """
    of_model = [row for row in filter(is_dense, files) if model in (None, row["model"])]
    of_model = [row for row in of_model if row["model"] not in seen] or of_model
    return max(of_model, key=lambda row: correct[row["file"]].sum())["file"]


def lost_and_won(
    predicted: numpy.ndarray, reference: numpy.ndarray, labels: numpy.ndarray, *, seen: bool
) -> tuple[int, int]:
    """Return how many validation images a file loses against the reference, and wins.

    seen: whether the weights were trained on these images, so that what is correct tells little; then each image on
    which the two do not agree counts as lost. All are int [n].
    """
    if seen:
        return int((predicted != reference).sum()), 0
    lost, won = (reference == labels) & (predicted != labels), (reference != labels) & (predicted == labels)
    return int(lost.sum()), int(won.sum())


def same_as_static(files: list[Mapping]) -> numpy.ndarray:
    """Return whether each file is that of static again, bool [n]: of mode mixed, with no layer in float32."""
    named = [tuple(row[name] for name in ("model", "seed", "scope", "rate", "recovery", "mode")) for row in files]
    return numpy.array(
        [
            mode == "mixed"
            and (*checkpoint, "static") in named
            and "float32_layers" not in read_json(row["size"])["provenance"]
            for row, (*checkpoint, mode) in zip(files, named, strict=True)
        ]
    )


def order(
    files: list[Mapping], labels: numpy.ndarray, test_images: int, answer: Mapping, seen: list[str], output: str
) -> None:
    """Write the reference, what is known of each file but for test images, and the sequence to certify (JSON).

    files: of Plan.files; labels: of validation images, int [n]; answer: the table of the configuration; seen: models
    whose weights were trained on our validation images. Refused files are left out.
    """
    there = [row for row in files if refusal(row["validation_predictions"]) is None]
    predicted = {row["file"]: read_predictions(row["validation_predictions"]) for row in there}
    correct = {file: prediction == labels for file, prediction in predicted.items()}
    reference = reference_of(there, correct, answer["reference"], seen)
    counts = numpy.array(
        [lost_and_won(predicted[row["file"]], predicted[reference], labels, seen=row["model"] in seen) for row in there]
    )
    level, margin = 1 - answer["confidence"], answer["maximum_accuracy_loss"] / 100
    chances = log_chance_to_pass(*counts.T, len(labels), test_images, margin, level)
    found = costs(there)
    place = [row["file"] for row in there].index(reference)
    by_objective = {objective: found[objective] for objective in answer["objectives"]}
    candidates = numpy.where(same_as_static(there), -numpy.inf, chances)
    tested = sequence(candidates, by_objective, {name: cost[place, 1] for name, cost in by_objective.items()})
    names = ("file", "model", "seed", "scope", "rate", "recovery", "mode")
    rows = [
        {name: row[name] for name in names}
        | {"validation_lost": int(lost), "validation_won": int(won)}
        | {"validation_accuracy": float(correct[row["file"]].mean()), "chance": float(numpy.exp(chance))}
        | {"costs": {objective: found[objective][index].tolist() for objective in OBJECTIVES}}
        for index, (row, (lost, won), chance) in enumerate(zip(there, counts, chances, strict=True))
    ]
    write_json(
        output,
        {
            "reference": reference,
            "validation_images": len(labels),
            "sequence": [rows[index]["file"] for index in tested],
            "files": rows,
        },
    )


if "snakemake" in globals():
    with job(snakemake.log[0]):
        params = snakemake.params
        order(
            params.files,
            read_labels(snakemake.input.validation_labels),
            read_json(snakemake.input.dataset)["images"]["test"],
            params.answer,
            params.seen,
            snakemake.output[0],
        )
