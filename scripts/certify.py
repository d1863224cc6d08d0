"""Certify files on test images in the order that validation images gave them -> the answer: which file to deploy."""

from collections.abc import Mapping

import numpy
import pandas
import scipy.stats

from elagage.certification import cheaper, cheapest, levels
from elagage.files import read_json, whole_file, write_json
from elagage.job import job
from elagage.noninferiority import DIFFERING, p_value, smallest_margin
from losses import read_losses

BEST = "results/best/{objective}/model.onnx"
COSTS = {  # objective -> what it costs, how to write it, and how the ratio of two is called
    "file_size": ("the file", "{:,.0f} bytes", "times smaller"),
    "packed_size": ("the packed file", "{:,.0f} bytes", "times smaller"),
    "time": ("an image", "{:.3f} ms", "times as fast"),
}


def described(row: Mapping) -> str:
    """Return in words which variant a row is."""
    if row["rate"] == 0:
        longer = f" trained longer ({row['recovery']})" if row["recovery"] else ""
        return f"{row['model']}, seed {row['seed']}, dense{longer}, {row['mode']}"
    recovery = "as pruned" if row["recovery"] == "none" else row["recovery"]
    return f"{row['model']}, seed {row['seed']}, {row['scope']} pruning at {row['rate']:.0%}, {recovery}, {row['mode']}"


def in_points(margin: float) -> str:
    """Return a margin in words."""
    return "1 point" if margin == 1 else f"{margin:g} points"


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
    half = scipy.stats.sem(of_seeds) * scipy.stats.t.ppf(0.975, len(of_seeds) - 1)
    mean = float(of_seeds.mean())
    return {"seeds": len(of_seeds), "loss_points": mean, "loss_low": mean - half, "loss_high": mean + half}


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
    ratios = {name: reference["costs"][name][1] / chosen["costs"][name][1] for name in COSTS}
    bounds = {name: float(of_file[name]) for name in ("loss_points", "loss_low", "loss_high")}
    return {
        **{name: chosen[name] for name in names},
        "is_reference": chosen is reference,
        "described": described(chosen),
        "best": BEST.format(objective=objective),
        "times_better": ratios,
        **bounds,
        "recipe": None if chosen is reference else recipe(chosen, variants, losses),
    }


def knees(variants: list[Mapping], losses: pandas.DataFrame, margin: float) -> list[dict]:
    """Return for each curve up to which rate all files are within the margin, and from which on all are beyond it.

    Both are fixed sequences: from the lowest rate upwards, and from the highest downwards, each file at the level of
    its bound, until one does not pass, or was refused. None where not even the first one passes.
    """
    table = pandas.DataFrame(variants).join(losses[["loss_low", "loss_high"]], on="file")
    found = []
    curves = ["model", "seed", "scope", "recovery", "mode"]
    for names, curve in table[table["rate"] > 0].sort_values("rate").groupby(curves, sort=False):
        within, beyond = curve["loss_high"] < margin, curve["loss_low"] > margin
        up_to = curve["rate"][within.cummin()]
        beyond_from = curve["rate"][beyond[::-1].cummin()[::-1]]
        found.append(
            dict(zip(curves, names, strict=True))
            | {
                "within_up_to": None if up_to.empty else float(up_to.max()),
                "beyond_from": None if beyond_from.empty else float(beyond_from.min()),
            }
        )
    return found


def sentence(objective: str, answer: Mapping, reference: Mapping, found: Mapping) -> str:
    """Return what to deploy by one objective, what it costs and what it loses."""
    what, unit, ratio = COSTS[objective]
    margin, confidence = found["margin_points"], found["confidence"]
    cost = unit.format(answer["costs"][objective][1])
    if answer["is_reference"]:
        return (
            f"By {objective.replace('_', ' ')}, no cheaper file is certified to lose less than {found['margin']}; "
            f"deploy the reference {answer['best']} ({answer['described']}; {what} takes {cost})."
        )
    loss = answer["loss_points"]
    change = f"{'gains' if loss < 0 else 'loses'} {abs(loss):.2f} points"
    before = unit.format(reference["costs"][objective][1])
    return (
        f"By {objective.replace('_', ' ')}, deploy {answer['best']} ({answer['described']}): {what} takes {cost} "
        f"instead of {before}, {answer['times_better'][objective]:.3g} {ratio}; on "
        f"{found['test_images']:,} test images it {change} of accuracy, and with {confidence:.0%} confidence it loses "
        f"less than {margin:g}."
    )


def markdown(found: Mapping) -> str:
    """Return the answer for people."""
    confidence = found["confidence"]
    smallest = ", ".join(
        f"{points:.2f} points where {float(share):.0%} of the images differ"
        for share, points in found["smallest_margin_points"].items()
    )
    passed = sum(row["passed"] for row in found["sequence"])
    return "\n".join(
        [
            "# The answer",
            "",
            *(f"- {text}" for text in found["sentences"]),
            "",
            f"Reference: {found['reference']['described']}, {found['reference']['file']}.",
            "",
            f"With {confidence:.0%} confidence none of these files loses {found['margin']} or more against the "
            f"reference: {len(found['sequence'])} files were tested on test images, in an order that only validation "
            f"images and costs decided, and {passed} passed. Whoever takes another file of the study has no such "
            f"guarantee, nor, strictly, who certifies again on the same test images.",
            "",
            f"The smallest margin that {found['test_images']:,} test images can certify: {smallest}.",
            "",
        ]
    )


def certify(
    order: str,
    losses: str,
    variants: list[Mapping],
    images: int,
    answer: Mapping,
    json_path: str,
    markdown_path: str,
) -> None:
    """Write the answer as JSON, and as Markdown for people.

    order: what the rule order wrote; losses: the table of the rule losses; variants: of Plan.variants; images: number
    of test images; answer: the table of the configuration.
    """
    ordered = read_json(order)
    table = read_losses(losses)
    sequence = tested(ordered, table, images, answer)
    passed = [row["file"] for row in sequence if row["passed"]]
    reference = next(row for row in ordered["files"] if row["file"] == ordered["reference"])
    reference = reference | {"described": described(reference)}
    confidence, margin = answer["confidence"], answer["maximum_accuracy_loss"]
    found = {
        "margin_points": margin,
        "margin": in_points(margin),
        "confidence": confidence,
        "test_images": images,
        "validation_images": ordered["validation_images"],
        "smallest_margin_points": {str(share): 100 * smallest_margin(images, share, confidence) for share in DIFFERING},
        "reference": reference,
        "sequence": sequence,
        "answers": {name: answered(name, passed, ordered, variants, table) for name in answer["objectives"]},
        "knees": knees(variants, table, margin),
    }
    found["sentences"] = [sentence(name, row, reference, found) for name, row in found["answers"].items()]
    write_json(json_path, found)
    with whole_file(markdown_path) as temporary:
        temporary.write_text(markdown(found))


if "snakemake" in globals():
    with job(snakemake.log[0]):
        certify(
            snakemake.input.order,
            snakemake.input.losses,
            snakemake.params.variants,
            read_json(snakemake.input.dataset)["images"]["test"],
            snakemake.params.answer,
            snakemake.output.json,
            snakemake.output.markdown,
        )
