"""Conda environments: each holds what the scripts of its rules import, in the tested versions."""

import ast
import pathlib
import re
import sys

import pytest
import yaml

from elagage.code_checksum import source_files

REPOSITORY = pathlib.Path(__file__).parent.parent
SCRIPTS = REPOSITORY / "scripts"
ENVIRONMENTS = sorted(file.stem for file in (REPOSITORY / "envs").glob("*.yaml"))
RULES = {
    match[1]: match[2]
    for file in sorted((REPOSITORY / "workflow/rules").glob("*.smk"))
    for match in re.finditer(r"^rule (\w+):\n(.*?)(?=^rule |\Z)", file.read_text(), re.DOTALL | re.MULTILINE)
}
CONDA_NAME = {
    "PIL": "pillow",
    "matplotlib": "matplotlib-base",
    "onnx_ir": "onnx-ir",
    "sklearn": "scikit-learn",
    "torch": "pytorch",
    "torch_pruning": "torch-pruning",
    "vl_convert": "vl-convert-python",
    "yaml": "pyyaml",
}
PYPI_NAME = {"matplotlib-base": "matplotlib", "pytorch": "torch", "vl-convert-python": "vl_convert_python"}
OURS = {"elagage", *(file.stem for file in SCRIPTS.glob("*.py"))}
PYTHON = "3.11"  # the tested version, which the Makefile prefers
# Needed without an import of ours: pandas writes Markdown with it.
INDIRECT = {"tables": {"tabulate"}}


def pins(file: str) -> dict[str, str]:
    lines = (REPOSITORY / file).read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def imported(script: str) -> set[str]:
    """Return the conda names of all packages that a script and its modules import, inside functions too."""
    names = set()
    for file in source_files(SCRIPTS / f"{script}.py", (SCRIPTS,)):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names.add(node.module)
    packages = {name.partition(".")[0] for name in names} - sys.stdlib_module_names - OURS
    return {CONDA_NAME.get(package, package) for package in packages}


def rules_of(environment: str) -> list[str]:
    return [rule for rule, text in RULES.items() if f'"../../envs/{environment}.yaml"' in text]


def dependencies(environment: str) -> dict[str, str]:
    """Return package -> version, of what conda installs and of what pip does because conda-forge lacks it."""
    listed = yaml.safe_load((REPOSITORY / f"envs/{environment}.yaml").read_text())["dependencies"]
    conda = [entry for entry in listed if isinstance(entry, str) and entry != "pip"]
    pip = [name for entry in listed if isinstance(entry, dict) for name in entry["pip"]]
    return dict(entry.split("=") for entry in conda) | dict(entry.split("==") for entry in pip)


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_and_its_script_share_a_name(rule):
    assert f'"../../scripts/{rule}.py"' in RULES[rule]
    for part in ("log:", "conda:", "threads:", "mem_mb=", "runtime=", "message:", f'code=code("{rule}")'):
        assert part in RULES[rule], part


def test_every_script_has_its_rule_and_every_rule_one_environment():
    programs = {"time_elsewhere"}  # which a rule puts into a file that runs on other machines
    assert {file.stem for file in SCRIPTS.glob("*.py")} - programs == set(RULES)
    assert sorted(rule for environment in ENVIRONMENTS for rule in rules_of(environment)) == sorted(RULES)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_an_environment_holds_just_what_the_scripts_of_its_rules_import(environment):
    needed = set().union(*(imported(rule) for rule in rules_of(environment)))
    assert set(dependencies(environment)) - {"python"} == needed | INDIRECT.get(environment, set())


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_an_environment_has_the_tested_versions(environment):
    tested = pins("requirements.txt") | pins("requirements-openvino.txt")
    for name, version in dependencies(environment).items():
        if name == "python":
            assert version == PYTHON
        else:
            assert version == tested[PYPI_NAME.get(name, name)], name


def test_environments_differ_in_what_they_hold():
    contents = [frozenset(dependencies(environment).items()) for environment in ENVIRONMENTS]
    assert len(set(contents)) == len(ENVIRONMENTS)


def test_evaluation_tables_and_figures_go_without_the_heavy_libraries():
    [environment] = {name for name in ENVIRONMENTS if "evaluate_accuracy" in rules_of(name)}
    assert "evaluate_latency" in rules_of(environment)
    for name in (environment, "packing", "page", "tables"):
        assert not {"pytorch", "torchvision"} & set(dependencies(name))
    assert "onnxruntime" not in dependencies("tables")


@pytest.mark.parametrize("file", ["requirements.txt", "requirements-test.txt", "requirements-openvino.txt"])
def test_the_lock_file_agrees_with_the_requirements(file):
    locked = {name.lower(): version for name, version in pins("requirements-lock.txt").items()}
    for name, version in pins(file).items():
        assert locked[name.lower()] == version


def test_every_rule_that_trains_asks_slurm_for_what_training_needs():
    """A rule that takes over another one with `use rule` has none of its resources there."""
    resources = yaml.safe_load((REPOSITORY / "slurm/config.yaml").read_text())["set-resources"]
    rules = "".join(path.read_text() for path in sorted((REPOSITORY / "workflow/rules").glob("*.smk")))
    parts = re.split(r"^rule |^use rule ", rules, flags=re.MULTILINE)[1:]
    training = {part.partition(":")[0] for part in parts if "threads: PLAN.training_threads" in part}
    training -= {"check_model"}  # on a CPU
    taken_over = re.findall(r"^use rule (\w+) as (\w+)", rules, re.MULTILINE)
    training |= {name for base, name in taken_over if base in training}
    assert {"train", "recover", "control", "quantize_qat"} <= training
    assert len({str(resources[name]) for name in training}) == 1
