"""Certify files on test images in the order that validation images gave them -> the answer: which file to deploy."""

from collections.abc import Mapping

import numpy
import pandas

from elagage import sentences
from elagage.certifiable import nothing_can_be
from elagage.certification import cheaper, cheapest, levels
from elagage.comparisons import knees, recoveries, scopes
from elagage.data import read_labels, read_predictions
from elagage.files import read_json, refusal, whole_file, write_csv, write_json
from elagage.job import job
from elagage.losses import losses, read_losses
from elagage.noninferiority import DIFFERING, p_value, smallest_margin
from elagage.objectives import OBJECTIVES
from elagage.statistics import mean_interval, most_frequent_share, wilson_interval

BEST = "results/best/{objective}/model.onnx"


def tested(order: Mapping, losses: pandas.DataFrame, images: int, answer: Mapping) -> list[dict]:
    """Return the sequence with each file's p-value, the level at which it was tested, and whether it passed."""
    margin, level = answer["maximum_accuracy_loss"] / 100, 1 - answer["confidence"]
    rows = losses.loc[order["sequence"]]
    p_values = p_value(rows["became_wrong"].to_numpy(int), rows["became_right"].to_numpy(int), images, margin).tolist()
    return [
        {"file": file, "p_value": value, "level": at, "passed": value <= at}
        for file, value, at in zip(order["sequence"], p_values, levels(p_values, level), strict=True)
    ]


def recipe(row: Mapping, variants: list[Mapping], losses: pandas.DataFrame) -> dict | None:
    """Return what the same scope, rate, recovery and mode lost with all seeds, None where there is only one.

    The loss of each seed is that against its own dense network; the interval is Student's (1908), 95 %.
    """
    same = ("model", "scope", "rate", "recovery", "mode")
    names = next((variant for variant in variants if variant["file"] == row["file"]), row)
    files = {variant["file"] for variant in variants if all(variant[key] == names[key] for key in same)}
    of_seeds = losses.loc[sorted(files.intersection(losses.index)), "dense_loss_points"].to_numpy()
    if len(of_seeds) < 2:
        return None
    mean, low, high = mean_interval(of_seeds)
    return {"seeds": len(of_seeds), "loss_points": mean, "loss_low": low, "loss_high": high}


def answered(
    objective: str, passed: list[str], order: Mapping, variants: list[Mapping], losses: pandas.DataFrame
) -> dict:
    """Return the answer by one objective: the cheapest file that passed, or the reference."""
    files = {row["file"]: row for row in order["files"]}
    reference = files[order["reference"]]
    least = reference["costs"][objective][1]
    better = [file for file in passed if cheaper(files[file]["costs"][objective][2], least)]
    chosen = reference
    if better:
        costs = numpy.array([files[file]["costs"][objective] for file in better]).T
        accuracy = numpy.array([files[file]["validation_accuracy"] for file in better])
        chosen = files[better[cheapest(*costs, accuracy)]]
    of_file = losses.loc[chosen["file"]]
    names = ("file", "model", "seed", "scope", "rate", "recovery", "mode", "costs")
    ratios = {name: reference["costs"][name][1] / chosen["costs"][name][1] for name in OBJECTIVES}
    bounds = {name: float(of_file[name]) for name in ("loss_points", "loss_low", "loss_high")}
    trained = chosen["rate"] > 0 and not pandas.isna(of_file["control_loss_points"])
    return {
        **{name: chosen[name] for name in names},
        "is_reference": chosen is reference,
        "described": sentences.described(chosen),
        "best": BEST.format(objective=objective),
        "times_better": ratios,
        **bounds,
        # What more epochs gain is not what compression keeps.
        "control_loss_points": float(of_file["control_loss_points"]) if trained else None,
        "recipe": None if chosen is reference else recipe(chosen, variants, losses),
    }


def markdown(found: Mapping) -> str:
    """Return the answer for people."""
    confidence = sentences.percent(found["confidence"])
    smallest = ", ".join(
        f"{points:.2f} points where {float(share):.0%} of the images differ"
        for share, points in found["smallest_margin_points"].items()
    )
    count, passed = len(found["sequence"]), sum(row["passed"] for row in found["sequence"])
    tested = f"{count} file{'' if count == 1 else 's'}" if count else "no file, as none is cheaper,"
    return "\n".join(
        [
            "# The answer",
            "",
            *(f"- {text}" for text in [*found["doubts"], *found["sentences"]]),
            "",
            f"Reference: {found['reference']['described']}, {found['reference']['file']}.",
            "",
            f"With {confidence} confidence none of these files loses {found['margin']} or more against the "
            f"reference: {tested} {'was' if count < 2 else 'were'} tested on test images, in an order that only "
            f"validation images and costs decided, and {passed or 'none'} passed. Whoever takes another file of the "
            f"study has no such guarantee, nor, strictly, who certifies again on the same test images.",
            "",
            f"The smallest margin that {found['test_images']:,} test images can certify: {smallest}.",
            "",
        ]
    )


def doubts(right: numpy.ndarray, labels: numpy.ndarray, answer: Mapping) -> list[str]:
    """Return what is to be told before the answer; right: bool [n], what the reference classifies correctly."""
    low, _ = wilson_interval(int(right.sum()), len(labels))
    guess = sentences.doubt(float(right.mean()), low, most_frequent_share(labels), answer["maximum_accuracy_loss"])
    return [*([guess] if guess else []), *nothing_can_be(answer, len(labels))]


def certify(
    order: str,
    files: list[Mapping],
    variants: list[Mapping],
    labels: numpy.ndarray,
    classes: list[str],
    answer: Mapping,
    outputs: Mapping[str, str],
) -> None:
    """Write what each file loses (`losses`, CSV), and the answer (`json`, and for people `markdown`).

    order: what the rule order wrote; files, variants: of Plan; labels: of test images, int [n]; answer: the table of
    the configuration. Refused files are left out.
    """
    ordered = read_json(order)
    there = [row for row in files if refusal(row["predictions"]) is None]
    predicted = {row["file"]: read_predictions(row["predictions"]) for row in there}
    write_csv(outputs["losses"], losses(there, predicted, ordered, labels, classes, answer))
    table = read_losses(outputs["losses"])
    sequence = tested(ordered, table, len(labels), answer)
    passed = [row["file"] for row in sequence if row["passed"]]
    reference = next(row for row in ordered["files"] if row["file"] == ordered["reference"])
    confidence, margin = answer["confidence"], answer["maximum_accuracy_loss"]
    found = {
        "margin_points": margin,
        "margin": sentences.in_points(margin),
        "confidence": confidence,
        "test_images": len(labels),
        "validation_images": ordered["validation_images"],
        "smallest_margin_points": {
            str(share): 100 * smallest_margin(len(labels), share, confidence) for share in DIFFERING
        },
        "reference": reference | {"described": sentences.described(reference)},
        "sequence": sequence,
        "answers": {name: answered(name, passed, ordered, variants, table) for name in answer["objectives"]},
        "knees": knees(variants, table, margin),
        "recoveries": recoveries(files, variants, table, margin),
        "scopes": scopes(variants, {file: said == labels for file, said in predicted.items()}),
    }
    found["doubts"] = doubts(predicted[ordered["reference"]] == labels, labels, answer)
    found["doubts"] += sentences.other_model(found)
    for name, chosen in found["answers"].items():
        chosen["sentence"] = sentences.answer([name], chosen, found["reference"], found)
    found["sentences"] = sentences.answers(found)
    for name, told in (("knees", sentences.knee), ("recoveries", sentences.recovery)):
        found[name] = [row | {"sentence": told(row, found["margin"])} for row in found[name]]
    found["scopes"] = [row | {"sentence": sentences.scopes(row)} for row in found["scopes"]]
    write_json(outputs["json"], found)
    with whole_file(outputs["markdown"]) as temporary:
        temporary.write_text(markdown(found))


if "snakemake" in globals():
    with job(snakemake.log[0]):
        certify(
            snakemake.input.order,
            snakemake.params.files,
            snakemake.params.variants,
            read_labels(snakemake.input.test_labels),
            read_json(snakemake.input.dataset)["classes"],
            snakemake.params.answer,
            dict(snakemake.output.items()),
        )
