"""Checkpoints: weights in safetensors files that describe themselves, and the user's own weights."""

import json
import os
import pathlib
import pickle
from collections.abc import Mapping

import safetensors
import torch
from safetensors.torch import load_file, save
from torch import nn

from elagage.data import Dataset
from elagage.errors import UserError
from elagage.files import reading, whole_file
from elagage.pytorch.models import build_network
from elagage.pytorch.shrinking import shrink
from elagage.version import VERSION

SHOWN = 5  # tensors of each kind of mistake in a message


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
    network = build_network(architecture, len(dataset.classes), dataset.channels, seed)
    state, provenance = load_checkpoint(path)
    if provenance.get("scope") == "channel":
        shrink(network, state)
    load_into(network, state, str(path))
    return network, provenance


def read_weights(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """Return the tensors of a user's .safetensors, .pt or .pth file.

    A state dict may lie under the key `state_dict`, and its names may start with `module.` (DataParallel). Files are
    never unpickled beyond tensors (`weights_only=True`). Raises UserError if the file is damaged or holds anything
    else.
    """
    try:
        if pathlib.Path(path).suffix == ".safetensors":
            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # The texts of some errors advise to load the file without protection.
        advises = isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error)
        text = "" if advises else str(error).strip()
        reason = text.splitlines()[0] if text else type(error).__name__
        raise UserError(
            f"weights {str(path)!r}: not a readable file of tensors and nothing else ({reason}); nothing in it was "
            f"executed; save it again with safetensors or torch.save(model.state_dict(), ...)"
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in content.items()
    ):
        raise UserError(
            f"weights {str(path)!r}: holds a {type(content).__name__}, not a state dict; "
            f"save it with torch.save(model.state_dict(), ...)"
        )
    if content and all(name.startswith("module.") for name in content):
        content = {name.removeprefix("module."): value for name, value in content.items()}
    return dict(content)


def load_into(network: nn.Module, state: Mapping[str, torch.Tensor], source: str) -> None:
    """Load a state dict into the network; `source` says in errors where it comes from.

    Raises UserError that names every tensor that is missing, left over or of another shape.
    """
    expected = network.state_dict()
    kinds = [
        [f"lacks {name} {tuple(tensor.shape)}" for name, tensor in expected.items() if name not in state],
        [f"has {name}, which the network lacks" for name in state if name not in expected],
        [f"has {name} {why}" for name in expected if name in state if (why := _unfit(state[name], expected[name]))],
    ]
    mistakes = [mistake for kind in kinds for mistake in kind[:SHOWN]]
    if mistakes:
        rest = sum(map(len, kinds)) - len(mistakes)
        more = f"; and {rest} more" if rest else ""
        raise UserError(f"{source}: the weights do not fit the network: it {'; it '.join(mistakes)}{more}")
    network.load_state_dict(state)


def _unfit(given: torch.Tensor, expected: torch.Tensor) -> str | None:
    """Return why a tensor cannot take the place of the expected one, or None."""
    if given.shape != expected.shape:
        return f"of shape {tuple(given.shape)}, the network {tuple(expected.shape)}"
    if given.layout != torch.strided or given.is_meta:
        return "that is sparse or without data; save it as a dense tensor"
    if given.is_complex() or (expected.is_floating_point() and not given.is_floating_point()):
        return f"of type {given.dtype}, the network {expected.dtype}"
    if not torch.isfinite(given).all():
        return "with values that are not finite"
    return None
