"""Put the answer and the dense files of its model into one program that times them on another machine."""

import io
import json
import pathlib
import zipfile
from collections.abc import Mapping, Sequence

import numpy

from elagage.data import read_predictions
from elagage.files import read_json, reading, refusal, sha256, whole_file
from elagage.job import job

IMAGES = 300  # that are timed, and answered
PROGRAM = pathlib.Path(__file__).with_name("time_elsewhere.py")
DATE = (2000, 1, 1, 0, 0, 0)  # of all in the bundle, so that the same files give the same bytes


def bundle_elsewhere(
    answer: str, files: Sequence[Mapping], images: Mapping[str, str], dataset: str, output: str
) -> None:
    """Write the bundle, which Python runs: `python elsewhere.pyz`.

    files: rows of Plan.files; images: model -> the test images as it takes them; dataset: dataset.json, of the names of
    the classes.
    """
    found, classes = read_json(answer), read_json(dataset)["classes"]
    rows = {row["file"]: row for row in files}
    reference = rows[found["reference"]["file"]]
    dense = f"results/models/{reference['model']}/seed{reference['seed']}/dense-"
    chosen = [reference["file"], *(row["file"] for row in found["answers"].values())]
    chosen += [file for file in rows if file.startswith(dense) and refusal(file) is None]
    content: dict[str, bytes] = {"__main__.py": PROGRAM.read_bytes()}
    listed = []
    for number, file in enumerate(dict.fromkeys(chosen)):
        with reading(file):
            model = pathlib.Path(file).read_bytes()
        row = rows[file]
        with reading(images[row["model"]]):
            few = numpy.load(images[row["model"]], mmap_mode="r")[:IMAGES]
        predicted = read_predictions(row["predictions"])[: len(few)]
        names = {"onnx": f"{number}.onnx", "images": f"{row['model']}.npy"}
        buffer = io.BytesIO()
        numpy.save(buffer, few)
        content |= {names["onnx"]: model, names["images"]: buffer.getvalue()}
        told = {"file": file, "role": "dense" if file == reference["file"] else "variant", "sha256": sha256(file)}
        listed.append(told | names | {"predictions": [classes[int(number)] for number in predicted]})
    content["files.json"] = json.dumps(listed).encode()
    with whole_file(output) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(zipfile.ZipInfo(name, DATE), data, zipfile.ZIP_DEFLATED)
    print(f"{len(listed)} files: {[row['file'] for row in listed]}")


if "snakemake" in globals():
    with job(snakemake.log[0]):
        bundle_elsewhere(
            snakemake.input.answer,
            snakemake.params.files,
            snakemake.params.images,
            snakemake.input.dataset,
            snakemake.output.program,
        )
