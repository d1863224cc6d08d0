"""Snakemake that runs no job but prints how many it would submit to a cluster: groups of jobs count as one.

For example `python benchmarks/planned.py --profile slurm all --config 'seeds=[0,1,2]'`, where Slurm is installed.
"""

from snakemake import cli
from snakemake.scheduling.job_scheduler import JobScheduler


def schedule(scheduler: JobScheduler) -> bool:
    """Take the place of the scheduler's method; return that all went well."""
    dag = scheduler.workflow.dag
    needed = [job for job in dag.needrun_jobs() if not job.is_local]
    submitted = {dag.get_job_group(job) or job for job in needed}
    print(f"{len(needed)} jobs in {len(submitted)} Slurm jobs")
    return True


if __name__ == "__main__":
    JobScheduler.schedule = schedule
    cli.main()
