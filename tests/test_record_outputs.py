"""The change of Snakemake by which jobs of a cluster record their outputs."""

import asyncio
import types

import pytest
from snakemake.exceptions import WorkflowError
from snakemake.persistence import PersistenceBase
from snakemake_interface_executor_plugins.settings import ExecMode

from elagage.record_outputs import record_outputs


@pytest.fixture
def settings() -> types.SimpleNamespace:
    """What Snakemake knows of itself in a job of a cluster."""
    return types.SimpleNamespace(exec_mode=ExecMode.REMOTE)


def persistence(settings, error: Exception | None = None) -> type:
    """Return a class like Snakemake's, whose `finished` notes in `modes` how it was called."""

    class Persistence:
        dag = types.SimpleNamespace(workflow=types.SimpleNamespace(workflow_settings=settings))

        def __init__(self):
            self.modes = []

        async def finished(self, job) -> None:
            self.modes.append((job, settings.exec_mode))
            if error:
                raise error

    return Persistence


def test_outputs_are_recorded_as_in_the_main_process_and_the_job_stays_one_of_a_cluster(settings):
    changed = persistence(settings)
    record_outputs(changed)
    instance = changed()
    asyncio.run(instance.finished("a job"))
    assert instance.modes == [("a job", ExecMode.DEFAULT)]
    assert settings.exec_mode == ExecMode.REMOTE


def test_the_job_stays_one_of_a_cluster_if_recording_fails(settings):
    changed = persistence(settings, OSError("full disk"))
    record_outputs(changed)
    with pytest.raises(OSError, match="full disk"):
        asyncio.run(changed().finished("a job"))
    assert settings.exec_mode == ExecMode.REMOTE


class Synchronous:
    def finished(self, job): ...


class WithAnotherParameter:
    async def finished(self, job, outputs): ...


class Renamed:
    async def job_finished(self, job): ...


@pytest.mark.parametrize("changed", [Synchronous, WithAnotherParameter, Renamed])
def test_a_snakemake_that_records_in_another_way_is_refused_and_left_as_it_is(changed):
    before = dict(vars(changed))
    with pytest.raises(WorkflowError, match=r"requirements\.txt"):
        record_outputs(changed)
    assert dict(vars(changed)) == before


def test_the_installed_snakemake_can_be_changed():
    record_outputs(type("Copy", (PersistenceBase,), {}))
