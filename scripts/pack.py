"""Pack the variants of a checkpoint: lossless copies of its ONNX files, about as small as their weights' entropy."""

import pathlib

from elagage.errors import UserError
from elagage.files import reading, whole_file
from elagage.job import job
from elagage.onnx.tensors import initializers
from elagage.packing.pack import pack
from elagage.packing.unpack import PackingError, unpack
from elagage.refusals import refusing


def pack_file(onnx_file: str, packed: str) -> None:
    """Write the packed form of an ONNX file, after a check that it unpacks to the same bytes.

    Raises UserError if the file is damaged, or if its packed form would be refused as forged.
    """
    model = pathlib.Path(onnx_file).read_bytes()
    with reading(onnx_file):
        tensors = initializers(model)
    try:
        content = pack(model, tensors)
    except PackingError as error:
        raise UserError(f"{onnx_file}: {error}") from error
    with whole_file(packed) as temporary:
        temporary.write_bytes(content)
        if unpack(temporary.read_bytes()) != model:
            raise RuntimeError(f"{onnx_file} would not be the same after packing")
        print(f"{onnx_file}: {len(model)} bytes, packed {temporary.stat().st_size}")


if "snakemake" in globals():
    with job(snakemake.log[0]):
        for onnx_file, packed in zip(snakemake.input.onnx_files, snakemake.output.packed, strict=True):
            with refusing(packed):
                pack_file(onnx_file, packed)
