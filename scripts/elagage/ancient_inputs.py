"""A change of Snakemake: what is `ancient` to a job does not hide that the job has to run for another reason.

Of all jobs downstream of one that runs, Snakemake looks for no reason of their own, since they will run because of it.
Those that it reaches only through an `ancient` input do not, and are skipped without a word, with outputs that are
missing or stale (https://github.com/snakemake/snakemake/issues/4166). Needed as long as DAG.update_needrun masks what
DAG.bfs finds downstream: in 9.27, the tested version. If Snakemake changes so that this no longer fits,
`respect_ancient` raises a WorkflowError; tests/test_ancient_inputs.py fails once Snakemake does it right by itself.
"""

import base64
import collections
import inspect
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping

from snakemake.exceptions import WorkflowError


def respect_ancient(dag: type) -> None:
    """Let `bfs` of the class, snakemake.dag.DAG, go downstream only to jobs with inputs that are new or not ancient."""
    bfs = getattr(dag, "bfs", None)
    if bfs is None or list(inspect.signature(bfs).parameters) != ["self", "direction", "jobs", "stop"]:
        raise WorkflowError(
            "This version of Snakemake finds what has to run in another way than 9.27, so Elagage cannot trust it; "
            "install the version in requirements.txt."
        )

    def bfs_by_inputs_that_count(self, direction: Mapping, *jobs, stop=lambda job: False) -> Iterator:
        """Yield the jobs in breadth-first order, as `bfs` does, downstream only through inputs that count."""
        if direction is not self.depending:
            yield from bfs(self, direction, *jobs, stop=stop)
            return
        queue, visited = collections.deque(jobs), set(jobs)
        while queue:
            job = queue.popleft()
            if stop(job):
                continue
            yield job
            for user, files in direction[job].items():
                if user not in visited and not all(file.is_ancient and os.path.exists(file) for file in files):
                    queue.append(user)
                    visited.add(user)

    dag.bfs = bfs_by_inputs_that_count  # type: ignore[attr-defined]


def stand_in(ancient: str, users: Iterable[str]) -> None:
    """Put an empty file in place of an ancient input that a failed or killed job took away, if a user of it is there.

    Snakemake spares only users of ancient files that exist. The file is older than all others and has no record, so
    that the job that makes it runs again.
    """
    path = pathlib.Path(ancient)
    if not path.exists() and any(map(os.path.exists, users)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (1, 1))
        record = base64.urlsafe_b64encode(ancient.encode()).decode()
        pathlib.Path(".snakemake/metadata", record).unlink(missing_ok=True)
