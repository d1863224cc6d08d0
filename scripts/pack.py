"""Pack the variants of a checkpoint: the same ONNX files in little more room than the entropy of their weights."""

import pathlib

from elagage.files import reading, whole_file
from elagage.job import job
from elagage.onnx_tensors import initializers
from elagage.packed import pack, unpack


def pack_variant(variant: str, packed: str) -> None:
    """Write the packed form of an ONNX file, once it has been unpacked again to the same bytes."""
    model = pathlib.Path(variant).read_bytes()
    with reading(variant):
        tensors = initializers(model)
    with whole_file(packed) as temporary:
        temporary.write_bytes(pack(model, tensors))
        if unpack(temporary) != model:
            raise RuntimeError(f"{variant} would not be the same after packing")
        print(f"{variant}: {len(model)} bytes, packed {temporary.stat().st_size}")


if "snakemake" in globals():
    with job(snakemake.log[0]):
        for variant, packed in zip(snakemake.input.variants, snakemake.output.packed, strict=True):
            pack_variant(variant, packed)
