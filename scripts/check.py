"""Say of each model what the study can do with it and what not, and about how long and how large the study will be."""

import os
from collections.abc import Mapping

from tabulate import tabulate

from elagage.certifiable import certifiable
from elagage.files import read_json, whole_file
from elagage.job import job, say

START = 3.0  # seconds that starting a job takes, most of them for imports (docs/scaling.md)
FIT = 60  # times the inference of an image, that reconstruct takes for it: 35 to 80 for four networks
JOBS_OF_CHECKPOINT = 6  # prune or train, quantize, pack, and the three measurements


def seconds(found: Mapping, work: Mapping, images: Mapping, cores: int) -> float:
    """Return about how long the jobs of a model take: timings by themselves, what takes one core side by side.

    found: what check_model wrote; work: the numbers of jobs and of passes over images (Plan.work); images: of each
    split.
    """
    trainings = found["training_seconds"] * images["train"] * work["training_passes"]
    alone = found["inference_seconds"] * work["timed_images"] * (work["variants"] + work["checkpoints"])
    beside = found["inference_seconds"] * images["test"] * work["variants"]
    beside += FIT * found["inference_seconds"] * min(images["train"], work["fitted_images"]) * work["fits"]
    beside += START * JOBS_OF_CHECKPOINT * work["checkpoints"]
    trainings /= min(cores, max(1, work["trainings"])) if work["training_threads"] == 1 else 1
    return alone + trainings + beside / cores


def disk_bytes(found: Mapping, work: Mapping) -> float:
    """Return about how many bytes a model's checkpoints and its ONNX files, packed and not, take at most."""
    sizes = found["bytes"]
    files = sum(2 * sizes.get(mode, sizes["float32"] / 4) for mode in work["modes"])  # packed and not
    return work["checkpoints"] * (sizes["checkpoint"] + files)


def section(found: Mapping) -> list[str]:
    """Return the lines of the report on a model."""
    lines = [
        f"## {found['model']}",
        "",
        "Loads, exports to ONNX, and gives there the logits of PyTorch.",
    ]
    if "accuracy" in found:
        lines[-1] += f" Accuracy of the given weights: {found['accuracy']:.2%} on {found['images']} test images."
    for row in found["refused"]:
        lines.append(f"- **{row['cell']} is refused**: {row['refused']}")
    if not found["refused"]:
        lines.append("All scopes, recoveries and modes that the study asks for are possible.")
    return [*lines, "", tabulate(found["layers"], headers="keys", tablefmt="pipe"), ""]


def check(reports: list[str], dataset: str, work: Mapping, answer: Mapping, cores: int, output: str) -> None:
    """Write the report (Markdown).

    work: model -> Plan.work of it; dataset: dataset.json, for the numbers of images; answer: the table of the
    configuration.
    """
    images = read_json(dataset)["images"]
    say(certifiable(answer, images["test"]))
    models = {found["model"]: found for found in map(read_json, reports)}
    duration = sum(seconds(found, work[name], images, cores) for name, found in models.items())
    size = sum(disk_bytes(found, work[name]) for name, found in models.items())
    variants = sum(part["variants"] for part in work.values())
    lines = [
        "# Check",
        "",
        f"{variants} variants to measure; about {size / 1e6:,.0f} MB beside the images, and about "
        f"{spoken(duration)} on {cores} core(s) of this machine, as of a few images: both are rough.",
        "",
        certifiable(answer, images["test"]),
        "",
    ]
    for found in models.values():
        lines += section(found)
    with whole_file(output) as temporary:
        temporary.write_text("\n".join(lines))


def spoken(duration: float) -> str:
    """Return seconds as people say them."""
    if duration < 90:
        return f"{duration:.0f} seconds"
    return f"{duration / 60:.0f} minutes" if duration < 5400 else f"{duration / 3600:.1f} hours"


if "snakemake" in globals():
    with job(snakemake.log[0]):
        check(
            snakemake.input.reports,
            snakemake.input.dataset,
            snakemake.params.work,
            snakemake.params.answer,
            os.cpu_count() or 1,
            snakemake.output[0],
        )
