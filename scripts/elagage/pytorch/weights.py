"""The user's own weights: files as people have them, and which state dict in one fits a network under which prefix."""

import collections
import os
import pickle
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import nn

from elagage.errors import UserError

SHOWN = 5  # tensors of each kind of mistake in a message
# What torch.compile, FSDP and checkpointing of activations put into names, also where they wrap a part of a network.
INSIDE = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
# What these, DataParallel, Lightning modules and training scripts put before the names of a network's tensors.
WRAPPERS = INSIDE | {"module", "model", "net", "network"}
# Keys of state dicts in checkpoints, the ones to prefer first; what is not here, such as moving averages, comes last.
PREFERRED = ("", "state_dict", "model_state_dict", "model", "net", "network")
PROFILED = ("total_ops", "total_params")  # counters that profilers (thop) leave in every module
DEPTH = 3  # of dictionaries in dictionaries that are searched for state dicts
ADVICE = "save it again with safetensors or torch.save(model.state_dict(), ...)"
BEGINNINGS = {  # of files that are none of weights -> what they are
    b"version https://git-lfs": "it is a pointer of Git LFS to the file, which git lfs pull fetches",
    b"<": "it is a web page",
    b"{": "it is JSON, such as an index of several files: load these, and save one state dict",
    b"\x1f\x8b": "it is compressed; unpack it",
}


class StateDict(NamedTuple):
    """A state dict of a file."""

    key: str  # where it lies in the file: keys of dictionaries, joined by dots; "" for the file itself
    tensors: dict[str, torch.Tensor]
    metadata: Mapping  # versions of modules, as nn.Module.state_dict notes them; may be empty


class Inert:
    """Stands for an object of a file that is no tensor, number, text, list or dictionary: it keeps and does nothing."""

    def __new__(cls, *arguments, **named):
        return object.__new__(cls)

    def __init__(self, *arguments, **named):
        pass

    def __setstate__(self, state):
        pass


def load_weights(network: nn.Module, path: str | os.PathLike, key: str | None, source: str) -> dict:
    """Load the state dict of a user's file that fits the network; return what was taken, for the provenance.

    key: that of the state dict in the file, or the prefix of its names, if the user states one. `source` says in errors
    where the file is named. The result has `weights_key`, `weights_prefix` and `weights_notes`, texts for the user.
    Raises UserError if the file is damaged, holds no state dict, or none that fits.
    """
    expected = network.state_dict()
    states = [_as_named_by(expected, state) for state in read_states(path)]
    if key is not None:
        states = _under(states, key.rstrip("."), source)
    matches = [(state, _best_prefixes(state.tensors, expected)) for state in states]
    rank = {name: number for number, name in enumerate(PREFERRED)}
    matches.sort(key=lambda match: (-match[1].fitting, rank.get(match[0].key, len(PREFERRED))))
    state, found = matches[0]
    prefix, *others = found.texts
    name = prefix.rstrip(".")
    if not _wraps(prefix) and name != (key or "").rstrip(".").removeprefix(f"{state.key}."):
        raise UserError(
            f"{source}: the names of its tensors do not fit the network; without the prefix "
            f"{' or '.join(map(repr, found.texts))} {found.fitting} of {len(expected)} would; if that is the network, "
            f"state weights_key: {' or '.join(text.rstrip('.') for text in found.texts)}"
        )
    equal = [other.key or "the file itself" for other, match in matches[1:] if match.fitting == found.fitting]
    notes = []
    if equal and found.fitting:
        notes.append(
            f"{source}: took the state dict {state.key!r}; {', '.join(map(repr, equal))} would fit as well: "
            f"weights_key chooses"
        )
    own, rest = _without_prefix(state, prefix)
    if others and found.fitting:
        notes.append(
            f"{source}: took the tensors {prefix + '*'!r}; {', '.join(repr(text + '*') for text in others)} would "
            f"fit as well: weights_key chooses"
        )
        rest = [name for name in rest if not name.startswith(tuple(others))]
    if rest:
        notes.append(f"{source}: left out, as no part of the network: {_listed(rest)}")
    load_into(network, own, source)
    return {"weights_key": state.key, "weights_prefix": prefix, "weights_notes": notes}


def read_states(path: str | os.PathLike) -> list[StateDict]:
    """Return all state dicts of a user's file, of safetensors or of torch.save, at most DEPTH dictionaries deep.

    Nothing in it is executed: objects of classes become placeholders. Raises UserError if the file is damaged or holds
    no state dict.
    """
    content = _read(path)
    states = list(_states(content, "", DEPTH))
    if not states:
        kind = "an object of a class" if isinstance(content, Inert) else f"a {type(content).__name__}"
        raise UserError(f"weights {str(path)!r}: holds {kind}, and no state dict; nothing in it was executed; {ADVICE}")
    return states


def load_into(network: nn.Module, state: StateDict, source: str) -> None:
    """Load a state dict into the network, in the network's types; `source` says in errors where it comes from.

    Tensors that the network shares may be there once, counters of batch norm not at all. Raises UserError that names
    every tensor that is missing, left over or of another shape.
    """
    expected = network.state_dict()
    tensors = _with_shared(network, state.tensors)
    kinds = [
        [f"lacks {name} {tuple(tensor.shape)}" for name, tensor in expected.items() if name not in tensors],
        [f"has {name}, which the network lacks" for name in tensors if name not in expected],
        [f"has {name} {why}" for name in expected if name in tensors if (why := _unfit(tensors[name], expected[name]))],
    ]
    mistakes = [mistake for kind in kinds for mistake in kind[:SHOWN]]
    if mistakes:
        rest = sum(map(len, kinds)) - len(mistakes)
        more = f"; and {rest} more" if rest else ""
        raise UserError(f"{source}: the weights do not fit the network: it {'; it '.join(mistakes)}{more}")
    loaded = collections.OrderedDict((name, tensors[name].to(expected[name].dtype)) for name in expected)
    # Some networks (torchvision's MnasNet) refuse a state dict that does not say the version of their modules.
    loaded._metadata = {**expected._metadata, **state.metadata}
    network.load_state_dict(loaded)


def _read(path: str | os.PathLike):
    try:
        if _begins(path)[8:] == b"{":  # after the length of the header, whatever the name of the file
            return load_file(path)
        with open(path, "rb") as file:  # of a path, torch.load believes the ending
            try:
                return torch.load(file, map_location="cpu", weights_only=True)
            except pickle.UnpicklingError:
                file.seek(0)
                names = torch.serialization.get_unsafe_globals_in_checkpoint(file)
            file.seek(0)
            with torch.serialization.safe_globals([(Inert, name) for name in names]):
                return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(
            f"weights {str(path)!r}: not a readable file of tensors ({_reason(path, error)}); nothing in it was "
            f"executed; {ADVICE}"
        ) from error


def _begins(path: str | os.PathLike, size: int = 9) -> bytes:
    with open(path, "rb") as file:
        return file.read(size)


def _reason(path: str | os.PathLike, error: Exception) -> str:
    """Return what is wrong; the texts of some errors advise to load the file without protection."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if "TorchScript" in str(error):
        return "it is a TorchScript archive; torch.jit.load(...).state_dict() reads it"
    for beginning, kind in BEGINNINGS.items():
        if _begins(path, len(beginning)) == beginning:
            return kind
    try:
        if names := torch.serialization.get_unsafe_globals_in_checkpoint(path):
            return f"it holds objects of {', '.join(sorted(names)[:SHOWN])}"
    except Exception:  # no archive of torch.save
        names = []
    text = "" if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error) else str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _states(content, key: str, depth: int) -> Iterator[StateDict]:
    """Yield the dictionaries of names and tensors in what a file holds."""
    if not isinstance(content, Mapping):
        return
    tensors = {
        name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, torch.Tensor)
    }
    kept = {name: value for name, value in tensors.items() if not name.endswith(PROFILED)}
    if kept:
        yield StateDict(key, kept, getattr(content, "_metadata", {}))
    if depth:
        for name, value in content.items():
            yield from _states(value, f"{key}.{name}".lstrip("."), depth - 1)


def _as_named_by(expected: Mapping[str, torch.Tensor], state: StateDict) -> StateDict:
    """Return the state dict, or the one without wrappers inside names and with masks applied that fits better."""
    unwrapped = {_unwrapped(name): tensor for name, tensor in state.tensors.items()}
    plain = state._replace(
        tensors=_masked(unwrapped), metadata={_unwrapped(name): value for name, value in state.metadata.items()}
    )
    return max(state, plain, key=lambda each: _best_prefixes(each.tensors, expected).fitting)


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in INSIDE)


def _masked(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors with those that torch.nn.utils.prune keeps in two, `<name>_orig` and `<name>_mask`, as one."""
    plain = dict(tensors)
    for name in tensors:
        whole = name.removesuffix("_mask")
        if whole != name and f"{whole}_orig" in plain and whole not in plain:
            plain[whole] = plain.pop(f"{whole}_orig") * plain.pop(name)
    return plain


def _under(states: list[StateDict], key: str, source: str) -> list[StateDict]:
    """Return the state dict of this key, or those with the tensors whose names, or key and names, begin with it."""
    named = [state for state in states if state.key == key]
    prefixed = [
        state._replace(
            tensors={
                name: tensor
                for name, tensor in state.tensors.items()
                if name.startswith(f"{key}.") or (state.key and f"{state.key}.{name}".startswith(f"{key}."))
            }
        )
        for state in states
    ]
    found = named or [state for state in prefixed if state.tensors]
    if not found:
        raise UserError(
            f"{source}: weights_key: there is no state dict {key!r} in it, and no tensor's name begins with "
            f"{key + '.'!r}; it has {_listed([state.key or next(iter(state.tensors)) for state in states])}"
        )
    return found


class _Prefixes(NamedTuple):
    texts: list[str]  # without which equally many tensors fit, the one to prefer first
    fitting: int  # tensors of the network that are there, in the right shape


def _best_prefixes(tensors: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> _Prefixes:
    """Return the prefixes without which most tensors have a name and a shape of the network.

    Of equals first those of wrappers, then the shortest.
    """
    fitting = collections.Counter({"": 0})
    for name, tensor in tensors.items():
        parts = name.split(".")
        for number in range(len(parts)):
            known = expected.get(".".join(parts[number:]))
            if known is not None and known.shape == tensor.shape:
                fitting["".join(f"{part}." for part in parts[:number])] += 1
    most = max(fitting.values())
    equal = [text for text, number in fitting.items() if number == most]
    return _Prefixes(sorted(equal, key=lambda text: (not _wraps(text), len(text))), most)


def _wraps(prefix: str) -> bool:
    return set(filter(None, prefix.split("."))) <= WRAPPERS


def _without_prefix(state: StateDict, prefix: str) -> tuple[StateDict, list[str]]:
    """Return the state dict of the names with the prefix, without it, and the names that lack it."""
    tensors = {name[len(prefix) :]: tensor for name, tensor in state.tensors.items() if name.startswith(prefix)}
    module = prefix.rstrip(".")
    metadata = {
        name[len(module) :].lstrip("."): value for name, value in state.metadata.items() if name.startswith(module)
    }
    return StateDict(state.key, tensors, metadata), [name for name in state.tensors if not name.startswith(prefix)]


def _with_shared(network: nn.Module, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors with those that the network has from others: shared ones, and counters of batches at 0."""
    complete, names = dict(tensors), collections.defaultdict(list)
    for name, tensor in network.state_dict(keep_vars=True).items():
        names[id(tensor)].append(name)
        if name.endswith("num_batches_tracked"):
            complete.setdefault(name, torch.zeros_like(tensor))
    for shared in names.values():
        given = next((tensors[name] for name in shared if name in tensors), None)
        if given is not None:
            complete |= {name: given for name in shared if name not in tensors}
    return complete


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(repr, names[:SHOWN])) + more


def _unfit(given: torch.Tensor, expected: torch.Tensor) -> str | None:
    """Return why a tensor cannot take the place of the expected one, or None."""
    if given.shape != expected.shape:
        return f"of shape {tuple(given.shape)}, the network {tuple(expected.shape)}"
    if given.layout != torch.strided or given.is_meta:
        return "that is sparse or without data; save it as a dense tensor"
    if given.is_complex() != expected.is_complex() or (expected.is_floating_point() and not given.is_floating_point()):
        return f"of type {given.dtype}, the network {expected.dtype}"
    if not torch.isfinite(given.to(expected.dtype)).all():
        return "with values that are not finite"
    return None
