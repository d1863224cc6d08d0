"""Count the bytes, weights and operators of each variant of a checkpoint, as stored in its ONNX file."""

import lzma
import pathlib

import onnx

from elagage.files import reading, write_json
from elagage.job import job
from elagage.onnx.contents import count_contents
from elagage.onnx.deployed import description
from elagage.onnx.macs import count_multiply_accumulates
from elagage.onnx.tensors import initializers
from elagage.packing.pack import entropy_bytes, packed_weight_bytes
from elagage.refusals import refusing


def evaluate_size(onnx_file: str, packed: str, size: str) -> None:
    """Write what is counted (JSON).

    bytes, packed_bytes, xz_bytes: of the ONNX file, of its packed form and of its `xz -9e` form; entropy_bytes: the
    sum of the order-0 entropies of its initializers (see elagage.packing.pack.entropy_bytes); packed_weight_bytes,
    weight_entropy_bytes: the share of the weights, tensors of two dimensions or more, in the packed form and in the
    entropy; macs: multiply-accumulates of one image, or null if it cannot be inferred from the graph;
    counts of weights and operators; the file's provenance.
    """
    packed_content = pathlib.Path(packed).read_bytes()
    with reading(packed):
        weight_bytes = packed_weight_bytes(packed_content)
    content = pathlib.Path(onnx_file).read_bytes()
    with reading(onnx_file):
        model = onnx.load_model_from_string(content)
        tensors = initializers(content)
        counts = count_contents(model) | {"macs": count_multiply_accumulates(model)}
        provenance = description(model)["provenance"]
    sizes = {
        "bytes": len(content),
        "packed_bytes": len(packed_content),
        "xz_bytes": len(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME)),
        "entropy_bytes": entropy_bytes(content, tensors),
        "packed_weight_bytes": weight_bytes,
        "weight_entropy_bytes": entropy_bytes(content, [tensor for tensor in tensors if tensor.weight]),
    }
    write_json(size, sizes | counts | {"provenance": provenance})
    print(f"{onnx_file}: {sizes | counts}")


if "snakemake" in globals():
    with job(snakemake.log[0]):
        for paths in zip(snakemake.input.onnx_files, snakemake.input.packed, snakemake.output.size, strict=True):
            with refusing(paths[-1]):
                evaluate_size(*paths)
