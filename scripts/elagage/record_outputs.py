"""A change of Snakemake: a job of a cluster records how its outputs were made.

Snakemake leaves that to the process that submitted the job. If that is killed, the outputs have no record, or an older
one, and a later run takes them as current whatever has changed since. Needed as long as
snakemake.persistence.PersistenceBase.finished returns at once in a job of a cluster (exec_mode REMOTE): in 9.27, the
tested version, and in all since 9.18. If Snakemake changes so that this no longer fits, `record_outputs` raises a
WorkflowError, and tests/test_slurm.py fails, which kills a driver and looks at the records.
"""

import inspect

from snakemake.exceptions import WorkflowError
from snakemake.persistence import PersistenceBase
from snakemake_interface_executor_plugins.settings import ExecMode


def record_outputs(persistence: type = PersistenceBase) -> None:
    """Let the class's `finished` record the outputs of a job of a cluster, as in the main process."""
    finished = getattr(persistence, "finished", None)
    if not inspect.iscoroutinefunction(finished) or list(inspect.signature(finished).parameters) != ["self", "job"]:
        raise WorkflowError(
            "This version of Snakemake records outputs in another way than 9.27, so Elagage cannot let the jobs of a "
            "cluster do it; install the version in requirements.txt."
        )

    async def finished_in_the_main_process(self, job) -> None:
        settings = self.dag.workflow.workflow_settings
        settings.exec_mode = ExecMode.DEFAULT
        try:
            await finished(self, job)
        finally:
            settings.exec_mode = ExecMode.REMOTE

    persistence.finished = finished_in_the_main_process  # type: ignore[attr-defined]
