"""Find the test images that compression loses most often, with thumbnails for people."""

import base64
import io
from collections.abc import Mapping, Sequence

import numpy
from PIL import Image

from elagage.data import Split, read_predictions
from elagage.files import read_json, refusal, write_json
from elagage.job import job
from elagage.measurements import is_dense, is_uncompressed

SHOWN = 24  # images
THUMBNAIL = 96  # pixels of the longer side, at most


def thumbnail(image: numpy.ndarray) -> str:
    """Return an image, uint8 [channels, height, width], as a small PNG in base64."""
    picture = Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    with io.BytesIO() as file:
        picture.save(file, "PNG")
        return base64.b64encode(file.getvalue()).decode()


def lost_images(
    files: list[Mapping],
    answer_path: str,
    test: Split,
    classes: Sequence[str],
    names: Sequence[str],
    output: str,
) -> None:
    """Write (JSON) the images that compressed files lose most often, each against its own dense float32 network.

    files: of Plan.files; answer_path: what the rule certify wrote; names: of the files of test images, or none. Images
    with 1 or 3 channels. An entry has `index` in the test set, `class`, `file` or null, `lost` (by how many of the
    `compared` files, of all models and seeds), `taken_for` (what most of those said), `predictions` (objective ->
    class, by the answer's file) and `thumbnail` (PNG, base64).
    """
    answer = read_json(answer_path)
    there = [row for row in files if refusal(row["predictions"]) is None]
    predicted = {row["file"]: read_predictions(row["predictions"]) for row in there}
    right = {(row["model"], row["seed"]): predicted[row["file"]] == test.labels for row in filter(is_dense, there)}
    compressed = [row for row in there if not is_uncompressed(row)]
    others = numpy.array([predicted[row["file"]] for row in compressed], int).reshape(-1, len(test))
    dense = numpy.array([right[row["model"], row["seed"]] for row in compressed], bool).reshape(-1, len(test))
    lost = dense & (others != test.labels)
    counts = lost.sum(axis=0)
    worst = [int(index) for index in numpy.argsort(-counts, kind="stable")[:SHOWN] if counts[index]]
    chosen = {objective: predicted[found["file"]] for objective, found in answer["answers"].items()}
    write_json(
        output,
        {
            "compared": len(others),
            "images": [
                {
                    "index": index,
                    "class": classes[test.labels[index]],
                    "file": names[index] if names else None,
                    "lost": int(counts[index]),
                    "taken_for": classes[numpy.bincount(others[lost[:, index], index]).argmax()],
                    "predictions": {objective: classes[said[index]] for objective, said in chosen.items()},
                    "thumbnail": thumbnail(test.images[index]),
                }
                for index in worst
            ],
        },
    )


if "snakemake" in globals():
    with job(snakemake.log[0]):
        lost_images(
            snakemake.params.files,
            snakemake.input.answer,
            Split.read(snakemake.input.test_images, snakemake.input.test_labels),
            read_json(snakemake.input.dataset)["classes"],
            read_json(snakemake.input.test_files),
            snakemake.output[0],
        )
