"""What the terminal shows of a study while it runs: a line for each job that starts, with the time that is left.

Snakemake's own log in .snakemake/log stays as it is, and so does what a dry run shows.
"""

import atexit
import collections
import logging
import sys
import time
from collections.abc import Callable, Mapping

from snakemake_interface_logger_plugins.common import LogEvent

HANDLER = "DefaultStreamHandler"  # Snakemake's name of what writes to the terminal
# The time left is not told while more jobs than these are of rules of which none has ended, perhaps trainings.
FEW = 10  # jobs
SHARE = 0.25  # of the jobs that are left
# What helps nobody who runs a study, or is told by the line of each job.
SILENT = {LogEvent.WORKFLOW_STARTED, LogEvent.RESOURCES_INFO, LogEvent.JOB_STARTED, LogEvent.JOB_FINISHED}
HEADERS = (
    *("Assuming unrestricted shared filesystem", "Building DAG of jobs", "Conda environments: ignored"),
    *("Complete log(s):", "Elapsed time:", "Select jobs to execute", "Using shell:"),
)
INTERRUPTED = "Terminating processes on user request"
KEPT = "stopped; finished files are kept, training goes on after its last finished epoch: give the same command again"


class Work:
    """The jobs of a run: how many are left, and about how many seconds they will take.

    clock: seconds, from any start.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self.clock = clock
        self.begun = clock()
        self.total = 0
        self.done = 0
        self._left: collections.Counter[str] = collections.Counter()
        self._took: dict[str, list[float]] = collections.defaultdict(list)
        self._running: dict[int, tuple[str, float]] = {}

    def plan(self, jobs: Mapping[str, int]) -> None:
        """Take in how many jobs of each rule will run."""
        self._left = collections.Counter({rule: count for rule, count in jobs.items() if rule != "total"})
        self.total = self._left.total()
        self.begun = self.clock()

    def start(self, job: int, rule: str) -> None:
        """A job has started."""
        self._running[job] = rule, self.clock()

    def finish(self, job: int) -> None:
        """A job has ended."""
        self.done += 1
        if job in self._running:  # of a group of jobs Snakemake tells the start of none
            rule, started = self._running.pop(job)
            self._left[rule] -= 1
            self._took[rule].append(self.clock() - started)

    def seconds(self) -> float:
        """Return how long the jobs have run until now."""
        return self.clock() - self.begun

    def seconds_left(self) -> float | None:
        """Return about how long the jobs that are left will take; None where too few of their kind have ended.

        A job takes as long as those of its rule did, or, where none has ended, as all did; and as many run side by
        side as did until now.
        """
        left = self._left.total()
        unknown = left - sum(self._left[rule] for rule in self._took)
        if not self._took or unknown > max(FEW, SHARE * left):
            return None
        worked = sum(map(sum, self._took.values()))
        any_rule = worked / sum(map(len, self._took.values()))
        expected = {rule: sum(took) / len(took) for rule, took in self._took.items()}
        seconds = sum(count * expected.get(rule, any_rule) for rule, count in self._left.items())
        underway = {job: self.clock() - started for job, (_, started) in self._running.items()}
        for job, (rule, _) in self._running.items():
            seconds -= min(underway[job], expected.get(rule, any_rule))
        side_by_side = (worked + sum(underway.values())) / max(self.seconds(), 1e-9)
        return seconds / side_by_side


class Narrator(logging.Formatter):
    """Filter and formatter of Snakemake's messages: events of jobs become one line, all else has Snakemake's own words.

    otherwise: Snakemake's formatter.
    """

    def __init__(self, otherwise: logging.Formatter, work: Work):
        super().__init__()
        self.otherwise = otherwise
        self.work = work
        self.interrupted = False

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a message is shown, and take in what it says of the jobs."""
        event = getattr(record, "event", None)
        if self.interrupted:
            return False  # the errors of jobs that were told to stop
        if event == LogEvent.RUN_INFO:
            self.work.plan(record.stats)  # type: ignore[attr-defined]
        elif event == LogEvent.JOB_INFO:
            self.work.start(record.jobid, record.rule_name)  # type: ignore[attr-defined]
            return bool(record.rule_msg)  # type: ignore[attr-defined]  # `all`, which does nothing, has none
        elif event == LogEvent.JOB_FINISHED:
            self.work.finish(record.job_id)  # type: ignore[attr-defined]
        elif event == LogEvent.PROGRESS:
            return record.done == record.total  # type: ignore[attr-defined]
        elif str(record.msg).startswith(INTERRUPTED):
            self.interrupted = True
            atexit.register(print, KEPT, file=sys.stderr)
        return event not in SILENT and not (event is None and str(record.msg).startswith(HEADERS))

    def format(self, record: logging.LogRecord) -> str:
        """Return what is shown of a message."""
        event = getattr(record, "event", None)
        if event == LogEvent.RUN_INFO:
            return f"{self.work.total} job{'' if self.work.total == 1 else 's'} to run"
        if event == LogEvent.JOB_INFO:
            return self.line(record.rule_msg)  # type: ignore[attr-defined]
        if event == LogEvent.PROGRESS:
            return (
                f"{time.strftime('%H:%M')} [{self.work.done}/{self.work.total}] done in {spoken(self.work.seconds())}"
            )
        return self.otherwise.format(record)

    def line(self, message: str) -> str:
        """Return the line of a job that starts: when, how many jobs have ended, and the time that is left."""
        left = self.work.seconds_left()
        remaining = "" if left is None else f", about {spoken(left)} left"
        return f"{time.strftime('%H:%M')} [{self.work.done}/{self.work.total}{remaining}] {message}"


def spoken(seconds: float) -> str:
    """Return a time to come, no more exact than it can be foretold."""
    if seconds < 55:
        return f"{max(10, 10 * round(seconds / 10))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{seconds / 3600:.1f} h"


def narrate(logger: logging.Logger) -> None:
    """Let Snakemake's logger show a study as this module does, unless a plugin shows it."""
    for handler in logger.handlers:
        if handler.name == HANDLER and handler.formatter is not None:
            narrator = Narrator(handler.formatter, Work())
            handler.addFilter(narrator)
            handler.setFormatter(narrator)
