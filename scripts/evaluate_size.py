"""Count the bytes, weights and operators of each variant of a checkpoint, as stored in its ONNX file."""

import os

import onnx

from elagage.files import reading, write_json
from elagage.job import job
from elagage.onnx_contents import count_contents, description


def evaluate_size(variant: str, size: str) -> None:
    """Write bytes, counts of weights and operators, and the file's provenance (JSON)."""
    with reading(variant):
        model = onnx.load(variant)
        content = {"bytes": os.path.getsize(variant), **count_contents(model)}
        provenance = description(model)["provenance"]
    write_json(size, content | {"provenance": provenance})
    print(f"{variant}: {content}")


if "snakemake" in globals():
    with job(snakemake.log[0]):
        for variant, size in zip(snakemake.input.variants, snakemake.output.size, strict=True):
            evaluate_size(variant, size)
