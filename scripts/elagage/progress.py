"""The progress bar of long work."""

import contextlib
from collections.abc import Callable, Iterator

from tqdm import tqdm

from elagage.job import terminal


@contextlib.contextmanager
def progress(total: int, unit: str, label: str) -> Iterator[Callable[[int], None]]:
    """Yield a function that advances the bar by a number of units; the bar is shown in a terminal only."""
    screen = terminal()
    with tqdm(total=total, unit=unit, desc=label, file=screen, disable=not screen.isatty(), leave=False) as bar:
        yield bar.update
