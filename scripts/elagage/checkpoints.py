"""Checkpoints without PyTorch: NumPy arrays in safetensors files that describe themselves."""

import json
import os
from collections.abc import Mapping

import numpy
import safetensors
import safetensors.numpy

from elagage.files import reading, whole_file
from elagage.version import VERSION


def read_checkpoint(path: str | os.PathLike) -> tuple[dict[str, numpy.ndarray], dict]:
    """Return a checkpoint's tensors, which may be changed, and its provenance."""
    with reading(path), safetensors.safe_open(path, "numpy") as file:
        names = file.keys()
        return {name: file.get_tensor(name) for name in names}, json.loads(file.metadata()["elagage"])


def write_checkpoint(path: str | os.PathLike, state: dict[str, numpy.ndarray], provenance: Mapping) -> None:
    """Write tensors and where they come from, as elagage.pytorch.checkpoints.save_checkpoint does."""
    with whole_file(path) as temporary:
        # Not save_file, whose errors are no OSErrors.
        temporary.write_bytes(safetensors.numpy.save(state, description(provenance)))


def description(provenance: Mapping) -> dict[str, str]:
    """Return the metadata of a checkpoint: as JSON under the key `elagage` its provenance, Elagage's version too.

    One key, because safetensors writes several in an order that changes from run to run.
    """
    return {"elagage": json.dumps({**provenance, "elagage": VERSION}, sort_keys=True)}


def named(provenance: Mapping) -> str:
    """Return the model and seed of a checkpoint, as far as it says, for the label of a progress bar."""
    return " ".join(f"{provenance[key]}" for key in ("model", "seed") if key in provenance)
