"""Snakemake that runs no job but makes every output an empty file, and records it as made.

`snakemake --touch` does the same through the scheduler, which takes an hour for 24,000 jobs.
"""

import pathlib

from snakemake import cli
from snakemake.scheduling.job_scheduler import JobScheduler


def schedule(scheduler: JobScheduler) -> bool:
    """Take the place of the scheduler's method; return that all went well."""
    workflow = scheduler.workflow
    for level in workflow.dag.toposorted():
        for job in level:
            for path in map(pathlib.Path, job.output):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
            workflow.async_run(workflow.persistence.finished(job))
    return True


if __name__ == "__main__":
    JobScheduler.schedule = schedule
    cli.main()
