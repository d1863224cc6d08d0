"""Checkpoints: weights in safetensors files that describe themselves."""

import json
import os
from collections.abc import Mapping

import safetensors
import torch
from safetensors.torch import save
from torch import nn

from elagage.checkpoints import description
from elagage.data import Dataset
from elagage.files import reading, whole_file
from elagage.job import say
from elagage.pytorch.folding import fold
from elagage.pytorch.models import build_network
from elagage.pytorch.pruning import weight_record
from elagage.pytorch.shrinking import shrink
from elagage.pytorch.weights import StateDict, load_into


def save_checkpoint(path: str | os.PathLike, state: Mapping[str, torch.Tensor], provenance: Mapping) -> None:
    """Write a state dict and where it comes from, as elagage.checkpoints.write_checkpoint does."""
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}
    with whole_file(path) as temporary:
        # Not save_file, whose errors are no OSErrors.
        temporary.write_bytes(save(tensors, description(provenance)))


def save_dense(path: str | os.PathLike, network: nn.Module, dataset: Dataset, provenance: Mapping) -> None:
    """Write a network that is not pruned, and what pruning has to know of it; the user is told what it cannot reach."""
    record = weight_record(network, dataset)
    if "unpruned" in record:
        layers = [f"{layer or 'the network itself'} ({size or 'mixed'})" for layer, size in record["unpruned"].items()]
        say(
            f"{provenance['architecture']}: pruning leaves weights that are computed in the forward pass: those of "
            f"{', '.join(layers)}"
        )
    save_checkpoint(path, network.state_dict(), {**provenance, **record})


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
