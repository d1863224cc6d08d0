"""Unpack an ONNX file: python scripts/unpack.py model.onnx.packed model.onnx

It needs Python 3.10 or newer on Linux or macOS, NumPy, constriction 0.5.0 and zstandard 0.19 or newer, and of Elagage
nothing but the files that it imports.
"""

import argparse
import os
import sys

from elagage.errors import UserError
from elagage.files import whole_file
from elagage.packed import unpack


def unpack_to(packed: str, model: str, force: bool) -> None:
    """Write the ONNX file that a packed file holds; raises UserError if `model` is there and not to be replaced."""
    if os.path.exists(model) and not force:
        raise UserError(f"{model}: is there already; name another file, or replace it with --force")
    try:
        content = unpack(packed)
    except MemoryError as error:
        raise UserError(f"{packed}: needs more memory than there is to be unpacked") from error
    except OSError as error:
        raise UserError(
            f"{packed}: cannot be read ({error.strerror}); name a file that ends in .onnx.packed"
        ) from error
    with whole_file(model) as temporary:
        temporary.write_bytes(content)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Unpack an ONNX file, byte for byte as it was before packing.")
    parser.add_argument("packed", help="a file that Elagage packed: model.onnx.packed")
    parser.add_argument("model", help="the ONNX file to write")
    parser.add_argument("--force", action="store_true", help="replace the ONNX file if it is there")
    try:
        unpack_to(**vars(parser.parse_args()))
    except UserError as error:
        sys.exit(f"error: {error}")
