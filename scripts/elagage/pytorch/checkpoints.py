"""Checkpoints: weights in safetensors files that describe themselves."""

import json
import os
from collections.abc import Mapping

import safetensors
import torch
from safetensors.torch import save
from torch import nn

from elagage.data import Dataset
from elagage.files import reading, whole_file
from elagage.pytorch.folding import fold
from elagage.pytorch.models import build_network
from elagage.pytorch.shrinking import shrink
from elagage.pytorch.weights import StateDict, load_into
from elagage.version import VERSION


def save_checkpoint(path: str | os.PathLike, state: Mapping[str, torch.Tensor], provenance: Mapping) -> None:
    """Write a state dict and, as JSON under the metadata key `elagage`, where it comes from, Elagage's version too.

    One key, because safetensors writes several in an order that changes from run to run.
    """
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}
    with whole_file(path) as temporary:
        # Not save_file, whose errors are no OSErrors.
        temporary.write_bytes(
            save(tensors, {"elagage": json.dumps({**provenance, "elagage": VERSION}, sort_keys=True)})
        )


def load_checkpoint(path: str | os.PathLike) -> tuple[dict[str, torch.Tensor], dict]:
    """Return the state dict and the provenance that save_checkpoint wrote."""
    with reading(path), safetensors.safe_open(path, "pt") as file:
        names = file.keys()
        return {name: file.get_tensor(name) for name in names}, json.loads(file.metadata()["elagage"])


def load_network(path: str | os.PathLike, architecture: str, dataset: Dataset, seed: int = 0) -> tuple[nn.Module, dict]:
    """Return the network of a checkpoint, with its weights and channels, and the checkpoint's provenance.

    `seed` decides what the network draws later, for dropout and the like.
    """
    network = build_network(architecture, len(dataset.classes), dataset.channels, seed, image_size=dataset.image_size)
    fold(network, dataset)
    state, provenance = load_checkpoint(path)
    if provenance.get("scope") == "channel":
        shrink(network, state)
    load_into(network, StateDict("", state, {}), str(path))
    return network, provenance
