"""Environments: what a rule's conda environment holds is what its script imports, in the tested versions."""

import ast
import pathlib
import re
import sys

import pytest
import yaml

REPOSITORY = pathlib.Path(__file__).parent.parent
SCRIPTS = REPOSITORY / "scripts"
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
}
PYPI_NAME = {"matplotlib-base": "matplotlib", "pytorch": "torch"}
# Needed without an import of ours: pandas writes Markdown with it.
INDIRECT = {"summarize": {"tabulate"}}


def pins(file: str) -> dict[str, str]:
    lines = (REPOSITORY / file).read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def imported(file: pathlib.Path) -> set[str]:
    """Return the conda names of all packages that a script and its modules import, inside functions too."""
    packages = set()
    for node in ast.walk(ast.parse(file.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            package = name.partition(".")[0]
            if package == "elagage":
                packages |= imported(SCRIPTS / f"{name.replace('.', '/')}.py")
            elif package not in sys.stdlib_module_names:
                packages.add(CONDA_NAME.get(package, package))
    return packages


def dependencies(rule: str) -> dict[str, str]:
    """Return package -> version, of what conda installs and of what pip does because conda-forge lacks it."""
    environment = yaml.safe_load((REPOSITORY / f"envs/{rule}.yaml").read_text())
    conda = [entry for entry in environment["dependencies"] if isinstance(entry, str) and entry != "pip"]
    pip = [name for entry in environment["dependencies"] if isinstance(entry, dict) for name in entry["pip"]]
    return dict(entry.split("=") for entry in conda) | dict(entry.split("==") for entry in pip)


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_its_script_and_its_environment_share_a_name(rule):
    assert f'"../../scripts/{rule}.py"' in RULES[rule]
    assert f'"../../envs/{rule}.yaml"' in RULES[rule]
    for part in ("log:", "threads:", "mem_mb=", "runtime=", "message:", f'code=code("{rule}")'):
        assert part in RULES[rule], part


def test_no_script_or_environment_is_left_over():
    assert {file.stem for file in SCRIPTS.glob("*.py")} == set(RULES)
    assert {file.stem for file in (REPOSITORY / "envs").glob("*.yaml")} == set(RULES)


@pytest.mark.parametrize("rule", RULES)
def test_an_environment_holds_just_what_the_script_imports(rule):
    assert set(dependencies(rule)) - {"python"} == imported(SCRIPTS / f"{rule}.py") | INDIRECT.get(rule, set())


@pytest.mark.parametrize("rule", RULES)
def test_an_environment_has_the_tested_versions(rule):
    tested = pins("requirements.txt")
    for name, version in dependencies(rule).items():
        if name == "python":
            assert version == f"{sys.version_info.major}.{sys.version_info.minor}"
        else:
            assert version == tested[PYPI_NAME.get(name, name)], name


def test_evaluation_and_plotting_go_without_the_heavy_libraries():
    for rule in ("evaluate_accuracy", "evaluate_size", "evaluate_latency"):
        assert not {"pytorch", "torchvision"} & set(dependencies(rule))
    assert not {"pytorch", "onnxruntime"} & set(dependencies("plot"))


@pytest.mark.parametrize("file", ["requirements.txt", "requirements-test.txt"])
def test_the_lock_file_agrees_with_the_requirements(file):
    locked = {name.lower(): version for name, version in pins("requirements-lock.txt").items()}
    for name, version in pins(file).items():
        assert locked[name.lower()] == version
