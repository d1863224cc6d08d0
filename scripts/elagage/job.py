"""A script's run as a job of the workflow: its log, its progress, its errors."""

import contextlib
import ctypes
import os
import pathlib
import resource
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from typing import TextIO

from elagage.errors import UserError

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>

_terminal = sys.stderr
_said: set[str] = set()


@contextlib.contextmanager
def job(log: str | os.PathLike) -> Iterator[None]:
    """Send all that the block prints to the file `log`, that of libraries in C too, and end it with time and memory.

    The terminal shows a mistake of the user (UserError) or of the machine (OSError: a full disk, a missing file) as one
    message, and any other exception as one line that names the log, which has the traceback. Then the process exits
    with 1.
    """
    global _terminal
    _end_with_parent()
    start = time.perf_counter()
    try:
        pathlib.Path(log).parent.mkdir(parents=True, exist_ok=True)
        with open(log, "w") as file:
            _terminal = os.fdopen(os.dup(2), "w", buffering=1)
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a TextIOWrapper, as Python starts
        yield
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
        print(f"took {time.perf_counter() - start:.1f} s and {peak:.0f} MiB of memory at its peak")
    except UserError as error:
        _fail(str(error))
    except OSError as error:
        with contextlib.suppress(OSError):
            traceback.print_exc()
        _fail(str(error) if error.filename else f"{error}; the traceback is in {log}")
    except Exception as error:
        with contextlib.suppress(OSError):
            traceback.print_exc()
        _fail(f"unexpected {type(error).__name__}: {error}; the traceback is in {log}")


def _end_with_parent() -> None:
    """Have Linux kill this process when its parent is killed: Snakemake, unless a shell lies between.

    Otherwise it would go on beside its successor, which the next run of Snakemake starts.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        # Killed while this process imported its libraries: Linux has made it a child of the first process.
        with contextlib.suppress(OSError):
            if os.getppid() == 1 and b"snakemake" not in pathlib.Path("/proc/1/cmdline").read_bytes():
                os._exit(1)


def _fail(message: str) -> None:
    """Show the message in the terminal, and in the log if the disk has room for it, and exit with 1."""
    print(f"error: {message}", file=_terminal, flush=True)
    with contextlib.suppress(OSError):
        print(f"error: {message}", flush=True)
    # Not sys.exit: with a full disk Python would fail once more as it flushes what the log could not take.
    os._exit(1)


def failures(folder: str | os.PathLike, since: float) -> dict[str, list[str]]:
    """Return the messages of the jobs that failed, each once, with the logs that end with it, not with time and memory.

    folder: of the logs, at any depth; since: seconds since the epoch, the start of the run.
    """
    found: dict[str, list[str]] = {}
    for log in sorted(pathlib.Path(folder).rglob("*.log"), key=lambda path: path.stat().st_mtime):
        _, begins, message = ("\n" + log.read_text(errors="replace")).rpartition("\nerror: ")
        if begins and "\ntook " not in message and log.stat().st_mtime >= since:
            found.setdefault(message.strip(), []).append(str(log))
    return found


def say(note: str) -> None:
    """Show a line that the user should read in the terminal, and in the log; the same line once."""
    if note in _said:
        return
    _said.add(note)
    print(f"note: {note}", file=_terminal, flush=True)
    print(f"note: {note}")


def terminal() -> TextIO:
    """Return standard error as it was before `job` sent it to the log: a terminal, if there is one."""
    return _terminal
