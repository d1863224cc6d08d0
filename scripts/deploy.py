"""Put the answer's file into a folder of its own, with a program that uses it and a model card."""

import json
import pathlib
import re
import shutil
from collections.abc import Mapping, Sequence

import numpy
import onnx
import onnxruntime
import PIL

from elagage.data import Dataset, read_labels, read_predictions
from elagage.files import read_json, reading, sha256, whole_file
from elagage.job import job
from elagage.objectives import OBJECTIVES
from elagage.onnx import predict
from elagage.onnx.deployed import description
from elagage.packing import unpack
from elagage.sentences import changes, percent


def escaped(name: str) -> str:
    """Return a name, such as that of a user's class, as text of a Markdown table."""
    return re.sub(r"([\\`*_<>|\[\]#~])", r"\\\1", " ".join(name.split()))


def per_class(correct: numpy.ndarray, right: numpy.ndarray, labels: numpy.ndarray, classes: Sequence[str]) -> list[str]:
    """Return the lines of a table with a row per class.

    correct, right: whether the file and the reference classify each image correctly, bool [n]; labels: int [n].
    """
    lines = [
        "| class | test images | recall | recall of the reference | loss in points | became wrong | became right |",
        "|---|---|---|---|---|---|---|",
    ]
    for number, name in enumerate(classes):
        ours, theirs = correct[labels == number], right[labels == number]
        lost, won = (theirs & ~ours).sum(), (ours & ~theirs).sum()
        lines.append(
            f"| {escaped(name)} | {len(ours):,} | {ours.mean():.1%} | {theirs.mean():.1%} "
            f"| {100 * (lost - won) / len(ours):.2f} | {lost} | {won} |"
        )
    return lines


def verdict(found: Mapping, answer: Mapping, objective: str) -> list[str]:
    """Return what was certified of the file, in words. found: the file's part of the answer."""
    margin, confidence, images = answer["margin"], percent(answer["confidence"]), answer["test_images"]
    if found["is_reference"]:
        return [
            f"No file of the study that is cheaper by {objective.replace('_', ' ')} was certified to lose less than "
            f"{margin} of accuracy. So this is the reference itself, a dense float32 network: nothing was "
            f"compressed.",
        ]
    seeds = found["recipe"]
    lines = [
        f"It {changes(found['loss_points'])} of accuracy against the reference on the same {images:,} test "
        f"images; the loss is above {found['loss_low']:.2f} and below {found['loss_high']:.2f} points, each with "
        f"{confidence} confidence by itself.",
        "",
        f"**With {confidence} confidence it loses less than {margin}, as does every other file that the "
        f"study certified.** Among those it is the cheapest by {objective.replace('_', ' ')}, up to ties.",
    ]
    if seeds:
        lines += [
            "",
            f"Points that the same recipe lost with {seeds['seeds']} seeds, each against its own dense network: "
            f"{seeds['loss_points']:.2f} on average (95% interval {seeds['loss_low']:.2f} to "
            f"{seeds['loss_high']:.2f}).",
        ]
    return lines


def comparison(found: Mapping, answer: Mapping, correct: numpy.ndarray, right: numpy.ndarray) -> list[str]:
    """Return the lines of a table of the file beside the reference."""
    rows = [(f"accuracy on {len(correct):,} test images", *(f"{shares.mean():.2%}" for shares in (correct, right)))]
    for objective, by in OBJECTIVES.items():
        costs = [
            [by.written.format(bound) for bound in row["costs"][objective]] for row in (found, answer["reference"])
        ]
        rows.append((by.name, *(cost if low == high else f"{cost} [{low}, {high}]" for low, cost, high in costs)))
    lines = ["| | this file | the reference |", "|---|---|---|"]
    return lines + [f"| {' | '.join(cells)} |" for cells in rows]


def use(taken: Mapping) -> list[str]:
    """Return how to use the folder; taken: the metadata's `preprocessing`."""
    versions = f"onnxruntime=={onnxruntime.__version__} numpy=={numpy.__version__} pillow=={PIL.__version__}"
    return [
        "```sh",
        f"python -m pip install {versions}",
        "python predict.py photo.jpg another.png           # the class of each photo, and its probability",
        "python unpack.py model.onnx.packed unpacked.onnx  # the same as model.onnx, from the file to send or keep",
        "```",
        "",
        "These versions were tested. `predict.py` prepares a photo as the study did: turned as its EXIF orientation "
        f"says, {taken['colours']}, {taken['size']}. In a program of your own, input `image` takes {taken['input']}; "
        "output `logits` is float32 [batch, classes]; the metadata of the file name classes and preprocessing.",
    ]


def measured(latency: Mapping, answer: Mapping, dataset: Dataset) -> list[str]:
    """Return how the file was measured, and on what. latency: what the rule evaluate_latency wrote."""
    counts = ", ".join(f"{count:,} {split}" for split, count in dataset.images.items())
    tested = len(answer["sequence"])
    return [
        f"- Data: {dataset.name}, {len(dataset.classes)} classes, {'grey' if dataset.channels == 1 else 'RGB'}, "
        f"{dataset.image_size}x{dataset.image_size} pixels; images: {counts}. SHA-256 of the decoded test images: "
        f"{dataset.sha256['test_images.npy']}.",
        "- Accuracy: image by image against the reference, on all test images, with this file in ONNX Runtime.",
        f"- Certification: validation images and costs put {tested} file(s) in order; each was then tested on test "
        "images (Tango's score test 1998, fallback procedure of Wiens 2003).",
        f"- Time: {latency['images']:,} test images, one at a time, {latency['threads']} thread(s), on "
        f"{latency['cpu']} ({latency['instruction_set']}), ONNX Runtime {latency['onnxruntime']}, in turn with the "
        "dense float32 network.",
    ]


LIMITS = [
    "- For photos like the test images. Of others, from another camera or place, the numbers here say nothing.",
    "- It names one of its classes whatever a photo shows. The probability is the network's softmax, which is not "
    "calibrated: 90% need not be right in 9 of 10 cases.",
    "- The verdict is of this file, of this margin, and of all classes together: single classes may lose more (below).",
    "- Times are of the processor named below; measure again on yours. Quantized files may also differ in single "
    "predictions on a processor with other instructions.",
]


def card(
    objective: str, answer: Mapping, model: Mapping, parts: Mapping[str, Sequence[str]], hashes: Mapping[str, str]
) -> str:
    """Return the model card in Markdown.

    model: the metadata of the ONNX file; parts: heading -> lines; hashes: file name -> SHA-256.
    """
    found, reference = answer["answers"][objective], answer["reference"]
    lines = [
        f"# {escaped(found['described'])}",
        "",
        f"An image classifier as an ONNX file, with {len(model['classes'])} classes. A study with Elagage "
        f"{model['provenance']['elagage']} compressed its networks in many ways; this is its answer by "
        f"{objective.replace('_', ' ')}.",
        "",
        f"- This file: `{found['file']}` of the study.",
        f"- The reference: `{reference['file']}` ({escaped(reference['described'])}).",
    ]
    for heading, content in parts.items():
        lines += ["", f"## {heading}", "", *content]
    files = [f"| {name} | {digest} |" for name, digest in hashes.items()]
    return "\n".join([*lines, "", "## Files", "", "| file | SHA-256 |", "|---|---|", *files, ""])


def as_json(content: object) -> list[str]:
    """Return a block of JSON, whose numbers YAML reads, too: it takes 5e-05 for text."""
    text = re.sub(r"(?<=[ \[])(-?\d+)(e[-+]\d+)(?=,?$)", r"\1.0\2", json.dumps(content, indent=2), flags=re.MULTILINE)
    return ["```json", text, "```"]


def deploy(
    objective: str,
    answer_path: str,
    files: Sequence[Mapping],
    datasets: Mapping[str, str],
    labels: numpy.ndarray,
    configuration: Mapping,
    outputs: Mapping[str, str],
) -> None:
    """Write `model`, `packed`, `predict` and `unpack`, copies, and `card` (Markdown), each whole or not at all.

    answer_path: what the rule certify wrote; files: of Plan.files; datasets: model -> dataset.json of the images as it
    takes them; labels: of test images, int64 [n]; configuration: that of the study, for the card. Raises UserError if
    the file of the answer is damaged.
    """
    answer = read_json(answer_path)
    found, reference = answer["answers"][objective], answer["reference"]
    paths = {row["file"]: row for row in files}
    dataset = Dataset.read(datasets[found["model"]])
    with reading(found["file"]):
        model = description(onnx.load(found["file"]))
    correct, right = (read_predictions(paths[row["file"]]["predictions"]) == labels for row in (found, reference))
    sources = {
        "model": found["file"],
        "packed": f"{found['file']}.packed",
        "predict": predict.__file__,
        "unpack": unpack.__file__,
    }
    for name, source in sources.items():
        with whole_file(outputs[name]) as temporary:
            shutil.copyfile(source, temporary)
    parts = {
        "Verdict": [*verdict(found, answer, objective), "", *comparison(found, answer, correct, right)],
        "Use": use(model["preprocessing"]),
        "What it is for, and what not": LIMITS,
        "Classes": per_class(correct, right, labels, dataset.classes),
        "How it was measured": measured(read_json(paths[found["file"]]["latency"]), answer, dataset),
        "What it was made from": as_json(model["provenance"]),
        "Configuration of the study": [
            "Saved as study.yaml (JSON is YAML), it makes the same study again.",
            "",
            *as_json(configuration),
        ],
    }
    hashes = {pathlib.Path(outputs[name]).name: sha256(outputs[name]) for name in sources}
    with whole_file(outputs["card"]) as temporary:
        temporary.write_text(card(objective, answer, model, parts, hashes))


def remove_others(objectives: Sequence[str], best: pathlib.Path = pathlib.Path("results/best")) -> None:
    """Remove the answers by objectives that the study no longer asks for: nothing says of them that they are old."""
    for objective in OBJECTIVES.keys() - set(objectives):
        shutil.rmtree(best / objective, ignore_errors=True)


if "snakemake" in globals():
    with job(snakemake.log[0]):
        remove_others(snakemake.params.objectives)
        for place, objective in enumerate(snakemake.params.objectives):
            deploy(
                objective,
                snakemake.input.answer,
                snakemake.params.files,
                snakemake.params.datasets,
                read_labels(snakemake.input.test_labels),
                snakemake.params.configuration,
                {name: paths[place] for name, paths in snakemake.output.items()},
            )
