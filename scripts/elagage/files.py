"""Files that appear whole or not at all, are read with errors that name them, and have checksums."""

import contextlib
import csv
import fcntl
import glob
import hashlib
import json
import os
import pathlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence

from elagage.errors import RefusedError, UserError

REFUSAL = b'{\n  "refused": '  # how a refusal begins, as write_json writes it; no model or array does


@contextlib.contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yield a temporary path beside `path` that replaces `path` once the block ends without an error.

    rename(2) is atomic within one file system, so a reader sees the old file, the complete new one, or none. The
    temporary name keeps the ending of `path`, because libraries choose formats by it. Raises UserError that names
    `path` and the cause (no space, too large, not permitted) if it cannot be written.
    """
    path = pathlib.Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
        temporary = pathlib.Path(name)
        try:
            with contextlib.suppress(OSError):  # without locks, what a killed writer left stays there
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield temporary
            with open(temporary, "rb") as written:
                os.fsync(written.fileno())
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)  # mkstemp makes files that only their owner can read
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
            os.close(handle)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); make room or give permission, and run again"
        ) from error


def _remove_leftovers(path: pathlib.Path) -> None:
    """Delete the temporary files of writers of `path` that were killed: those that no process has locked."""
    for leftover in path.parent.glob(f".{glob.escape(path.stem)}.????????{glob.escape(path.suffix)}"):
        with contextlib.suppress(OSError), open(leftover, "r+b") as file:  # NFS locks only what may be written
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            leftover.unlink()


@contextlib.contextmanager
def reading(path: str | os.PathLike) -> Iterator[None]:
    """Name the file in every error of the block, which reads a file that an earlier job wrote.

    Raises UserError if its content is not what it should be, and RefusedError if an earlier job wrote a refusal in its
    place. OSError and MemoryError stay: the file may be fine.
    """
    if (reason := refusal(path)) is not None:
        raise RefusedError(reason)
    try:
        yield
    except (UserError, OSError, MemoryError):
        raise
    except Exception as error:  # libraries raise errors of every kind for damaged files
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{path}: damaged, or not a file of this study ({type(error).__name__}: {reason}); delete it and run again"
        ) from error


def write_refusal(path: str | os.PathLike, reason: str) -> None:
    """Write, in place of a file of any kind, why it cannot be made: a JSON text that `refusal` knows again."""
    write_json(path, {"refused": reason})


def refusal(path: str | os.PathLike) -> str | None:
    """Return why an earlier job could not make this file, None if it is what its name says or is not there."""
    with contextlib.suppress(FileNotFoundError, IsADirectoryError), open(path, "rb") as file:
        if file.read(len(REFUSAL)) == REFUSAL:
            return json.loads(REFUSAL + file.read())["refused"]
    return None


def write_json(path: str | os.PathLike, content: object) -> None:
    """Write `content` as indented JSON, whole or not at all; NaN and infinity are refused (ValueError)."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike):
    """Return the content of a JSON file; raises UserError if it is damaged."""
    with reading(path):
        return json.loads(pathlib.Path(path).read_text())


def write_csv(path: str | os.PathLike, rows: Sequence[Mapping]) -> None:
    """Write one row or more as CSV, whole or not at all; the keys of the first row are the header."""
    with whole_file(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def sha256(path: str | os.PathLike) -> str:
    """Return the SHA-256 checksum of a file as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
