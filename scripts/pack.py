"""Pack the variants of a checkpoint: the same ONNX files in about the room of the entropy of their weights."""

import pathlib

from elagage.errors import UserError
from elagage.files import reading, whole_file
from elagage.job import job
from elagage.onnx_tensors import initializers
from elagage.packing.pack import pack
from elagage.packing.unpack import PackingError, unpack


def pack_variant(variant: str, packed: str) -> None:
    """Write the packed form of an ONNX file, once it has been unpacked again to the same bytes.

    Raises UserError if the file is damaged, or is one that unpacking would take for a forgery.
    """
    model = pathlib.Path(variant).read_bytes()
    with reading(variant):
        tensors = initializers(model)
    try:
        content = pack(model, tensors)
    except PackingError as error:
        raise UserError(f"{variant}: cannot be packed ({error}); leave out the highest of pruning.rates") from error
    with whole_file(packed) as temporary:
        temporary.write_bytes(content)
        if unpack(temporary.read_bytes()) != model:
            raise RuntimeError(f"{variant} would not be the same after packing")
        print(f"{variant}: {len(model)} bytes, packed {temporary.stat().st_size}")


if "snakemake" in globals():
    with job(snakemake.log[0]):
        for variant, packed in zip(snakemake.input.variants, snakemake.output.packed, strict=True):
            pack_variant(variant, packed)
