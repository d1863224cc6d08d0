"""The state of an unfinished training, so that a killed one goes on after its last finished epoch."""

import dataclasses
import io
import json
import pathlib
import random
from collections.abc import Iterable, Mapping

import numpy
import torch

from elagage.files import sha256, whole_file
from elagage.job import terminal


@dataclasses.dataclass(frozen=True)
class TrainingState:
    """A file that is no output of its rule, because Snakemake deletes the outputs of a killed job.

    identity: all that the training depends on, as values of JSON. A state of another identity is never resumed.
    """

    path: pathlib.Path
    identity: Mapping

    def save(self, content: Mapping) -> None:
        """Write the state, tensors and numbers in tables and lists, whole or not at all."""
        buffer = io.BytesIO()  # torch.save to a file raises RuntimeError on a full disk
        torch.save({"identity": self._identity(), **content}, buffer)
        with whole_file(self.path) as temporary:
            temporary.write_bytes(buffer.getbuffer())

    def load(self) -> dict | None:
        """Return what was saved, on the CPU, or None if there is nothing to resume. Nothing in it is executed."""
        try:
            saved = torch.load(self.path, map_location="cpu", weights_only=True)
            if saved["identity"] == self._identity():
                return saved
            reason = "belongs to a training with other settings, images or code"
        except FileNotFoundError:
            return None
        except (OSError, MemoryError):  # the file may be fine: the next attempt takes it up
            raise
        except Exception as error:  # torch.load raises errors of every kind for damaged files
            reason = f"cannot be read ({type(error).__name__})"
        for stream in (None, terminal()):
            print(f"{self.path} {reason}; training starts again from the beginning", file=stream)
        return None

    def remove(self) -> None:
        """Delete the file; to be called once the outputs are in place."""
        self.path.unlink(missing_ok=True)

    def _identity(self) -> str:
        return json.dumps(self.identity, sort_keys=True)


def identity(settings: Mapping, inputs: Iterable[str]) -> dict:
    """Return all that a training depends on: its settings, the content of small input files, PyTorch."""
    return {**settings, "inputs": [sha256(file) for file in inputs], "torch": torch.__version__}


def random_state() -> dict:
    """Return the state of the random generators that a network may draw from: Python's, NumPy's and PyTorch's."""
    name, keys, *rest = numpy.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (name, keys.tolist(), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def set_random_state(state: Mapping) -> None:
    """Put the generators into the state that random_state returned."""
    random.setstate(state["python"])
    numpy.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
