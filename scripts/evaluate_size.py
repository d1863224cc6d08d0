"""Count the bytes, weights and operators of each variant of a checkpoint, as stored in its ONNX file."""

import os
import pathlib

import onnx

from elagage.files import reading, write_json
from elagage.job import job
from elagage.onnx.contents import count_contents, count_multiply_accumulates
from elagage.onnx.deployed import description
from elagage.onnx.tensors import initializers
from elagage.packed import bound_bytes, packed_weight_bytes


def evaluate_size(variant: str, packed: str, size: str) -> None:
    """Write what is counted (JSON).

    bytes, packed_bytes: of the ONNX file and of its packed form; packed_bound_bytes: sum of the order-0 entropies of
    its initializers (see elagage.packed.bound_bytes); packed_weight_bytes, packed_weight_bound_bytes: the share of the
    weights, tensors of two dimensions or more, in both; macs: multiply-accumulates of one image, or null if the graph
    does not tell; counts of weights and operators; the file's provenance.
    """
    content = pathlib.Path(variant).read_bytes()
    with reading(variant):
        model = onnx.load_model_from_string(content)
        tensors = initializers(content)
        counts = count_contents(model) | {"macs": count_multiply_accumulates(model)}
        provenance = description(model)["provenance"]
    with reading(packed):
        weight_bytes = packed_weight_bytes(packed)
    sizes = {
        "bytes": len(content),
        "packed_bytes": os.path.getsize(packed),
        "packed_bound_bytes": bound_bytes(content, tensors),
        "packed_weight_bytes": weight_bytes,
        "packed_weight_bound_bytes": bound_bytes(content, [tensor for tensor in tensors if tensor.weight]),
    }
    write_json(size, sizes | counts | {"provenance": provenance})
    print(f"{variant}: {sizes | counts}")


if "snakemake" in globals():
    with job(snakemake.log[0]):
        for paths in zip(snakemake.input.variants, snakemake.input.packed, snakemake.output.size, strict=True):
            evaluate_size(*paths)
