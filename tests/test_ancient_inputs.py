"""Snakemake with `ancient` inputs: what has to run for another reason runs, and what has none does not."""

import pytest
from runners import SCRIPTS, run_snakemake
from snakemake.exceptions import WorkflowError

from elagage.ancient_inputs import respect_ancient

# Training waits for the check, and has nothing to do again; what follows it has, because its own parameter changes.
WORKFLOW = """
{patch}
rule all:
    input: "trained", "late", "report"
rule check:
    input: "Snakefile"
    output: "checked"
    params: config["asked"]
    shell: "touch {{output}}"
rule train:
    input: ancient("checked")
    output: "trained"
    shell: "echo >> {{output}}"
rule late:
    input: "trained"
    output: "late"
    params: config["asked"]
    shell: "touch {{output}}"
rule report:
    input: "checked"
    output: "report"
    shell: "touch {{output}}"
"""
PATCH = f"""
import sys
sys.path.insert(0, {str(SCRIPTS)!r})
from snakemake.dag import DAG
from elagage.ancient_inputs import respect_ancient, stand_in
respect_ancient(DAG)
"""


def rerun(folder, patch: str) -> set[str]:
    """Run a workflow, ask for something else and return the rules that run then."""
    (folder / "Snakefile").write_text(WORKFLOW.format(patch=patch))
    assert run_snakemake(folder, "--config", "asked=1")[0] == 0
    status, output = run_snakemake(folder, "--config", "asked=2")
    assert status == 0, output
    return {name for name in ("check", "train", "late", "report") if f"rule {name}:" in output}


def test_what_has_a_reason_of_its_own_behind_an_ancient_input_runs(tmp_path):
    assert rerun(tmp_path, PATCH) == {"check", "late", "report"}


def test_snakemake_by_itself_still_leaves_it_out(tmp_path):
    """Once this fails, elagage.ancient_inputs can go."""
    assert "late" not in rerun(tmp_path, "")


def test_another_snakemake_is_refused():
    class Other:
        def bfs(self, direction):
            """Has other parameters."""

    with pytest.raises(WorkflowError, match="install the version"):
        respect_ancient(Other)


def test_an_ancient_input_that_was_taken_away_is_made_again_and_its_users_are_spared(tmp_path):
    """A killed job loses its output; where its record lies is Snakemake's own business, so it is looked at here."""
    (tmp_path / "Snakefile").write_text(WORKFLOW.format(patch=PATCH + "stand_in('checked', ['trained'])\n"))
    assert run_snakemake(tmp_path, "--config", "asked=1")[0] == 0
    (tmp_path / "checked").unlink()
    status, output = run_snakemake(tmp_path, "--config", "asked=1")
    assert status == 0, output
    assert "rule check:" in output and "rule train:" not in output
    assert "Nothing to be done" in run_snakemake(tmp_path, "--config", "asked=1")[1]
