"""Refused cells: why a network rules something out is written in place of the files that a job would have made.

The plan of a study stays static: each job of an impossible combination runs, finds the reason where an earlier one
wrote it, and passes it on, down to the summary. All else of the study goes on.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator

from elagage.errors import RefusedError, UserError
from elagage.files import write_refusal


@contextlib.contextmanager
def ruled_out() -> Iterator[None]:
    """Let a UserError of the block be a RefusedError: of a network that is fine but for what the block does with it."""
    try:
        yield
    except UserError as error:
        raise RefusedError(str(error)) from error


@contextlib.contextmanager
def refusing(*outputs: str | os.PathLike | Iterable[str | os.PathLike]) -> Iterator[None]:
    """Write the reason of a RefusedError of the block in place of all outputs, paths or lists of paths."""
    try:
        yield
    except RefusedError as error:
        print(f"refused: {error}")
        for output in outputs:
            for path in [output] if isinstance(output, str | os.PathLike) else output:
                write_refusal(path, str(error))
