"""The Makefile: which Python it takes, when it makes .venv again, and what it says of itself."""

import pathlib
import re
import shutil
import subprocess

import pytest

REPOSITORY = pathlib.Path(__file__).parent.parent
MAKEFILE = REPOSITORY / "Makefile"
TARGETS = {
    "study",
    "new",
    "elsewhere",
    "check",
    "compare",
    "install",
    "openvino",
    "test",
    "test-all",
    "coverage",
    "test-browser",
    "test-slurm",
    "format",
    "clean",
    "help",
}


@pytest.fixture
def make(tmp_path):
    """Return a function that runs make, on a machine with these versions of Python only, in an empty folder."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("make", "sh", "sed", "rm", "find", "dirname", "basename", "touch", "cat"):
        (programs / name).symlink_to(shutil.which(name))
    for name in (
        "Makefile",
        "requirements.txt",
        "requirements-test.txt",
        "requirements-lock.txt",
        "requirements-openvino.txt",
    ):
        shutil.copy(REPOSITORY / name, tmp_path)

    def run(*words: str, pythons: tuple[str, ...] = ("3.11",)) -> subprocess.CompletedProcess:
        for version in pythons:
            python = programs / f"python{version}"
            python.write_text(f'#!/bin/sh\ncase "$2" in *print*) echo {version} ;; esac\n')
            python.chmod(0o755)
        environment = {"PATH": str(programs), "HOME": str(tmp_path)}
        return subprocess.run(["make", *words], cwd=tmp_path, env=environment, capture_output=True, text=True)

    return run


@pytest.mark.parametrize("target", ["study", "install", "openvino", "test", "test-all"])
def test_only_the_tests_bring_openvino_unless_it_is_asked_for(make, target):
    brings = "--requirement requirements-openvino.txt" in make("--dry-run", target).stdout
    assert brings == (target in ("openvino", "test", "test-all"))


@pytest.mark.parametrize(
    ("there", "taken"),
    [(("3.11", "3.12"), "3.11"), (("3.10", "3.13", "3.12"), "3.12"), (("3.14", "3.13"), "3.13"), (("3.14",), "3.14")],
)
def test_the_tested_python_is_taken_else_the_oldest_newer_one_which_is_said(make, there, taken):
    output = make("--dry-run", "install", pythons=there).stdout
    assert f"python{taken} -m venv --clear .venv" in output
    assert ("the tested one is 3.11" in output) == (taken != "3.11")


def test_a_python_that_does_not_start_is_passed_over(make, tmp_path):
    """As pyenv leaves them for versions that are not chosen."""
    broken = tmp_path / "programs/python3.11"
    broken.write_text("#!/bin/sh\nexit 127\n")
    broken.chmod(0o755)
    assert "python3.12 -m venv" in make("--dry-run", "install", pythons=("3.12",)).stdout


def test_a_named_python_wins(make):
    output = make("--dry-run", "install", "PYTHON=python3.13", pythons=("3.11", "3.13")).stdout
    assert "python3.13 -m venv" in output


@pytest.mark.parametrize(("words", "named"), [((), r"Python 3\.11 to 3\.14"), (("PYTHON=python4",), "python4")])
def test_without_python_it_says_what_to_do(make, words, named):
    done = make("--dry-run", "install", *words, pythons=("3.10",))
    assert done.returncode != 0
    assert re.search(rf"there is no {named} here; name one with 'make PYTHON=", done.stderr)


def test_a_venv_is_made_again_for_another_python_and_updated_for_other_requirements(make, tmp_path):
    stamp = re.search(r"touch (\S+)", make("--dry-run", "install").stdout)[1]
    (tmp_path / stamp).parent.mkdir()
    (tmp_path / stamp).touch()
    assert "venv" not in make("--dry-run", "install").stdout
    assert "venv --clear" in make("--dry-run", "install", "PYTHON=python3.12", pythons=("3.11", "3.12")).stdout
    (tmp_path / "requirements.txt").touch()
    output = make("--dry-run", "install").stdout
    assert "-m pip install" in output
    assert "--clear" not in output


@pytest.fixture
def installed(make, tmp_path) -> pathlib.Path:
    """Return the repository, with two configurations and an installed Snakemake that prints its words."""
    stamp = tmp_path / re.search(r"touch (\S+)", make("--dry-run", "install").stdout)[1]
    (stamp.parent / "bin").mkdir(parents=True)
    snakemake = stamp.parent / "bin/snakemake"
    snakemake.write_text('#!/bin/sh\nfor word in "$@"; do echo "<$word>"; done\n')
    snakemake.chmod(0o755)
    stamp.touch()
    for folder in ("config", "my studies/first"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "config/config.yaml").touch()
    (tmp_path / "my studies/first/study.yaml").touch()
    return tmp_path


@pytest.mark.parametrize("target", ["study", "check"])
@pytest.mark.parametrize(
    ("words", "config", "folder"),
    [
        ((), "config/config.yaml", ""),
        (("CONFIG=config/config.yaml",), "config/config.yaml", ""),
        (("CONFIG=my studies/first/study.yaml",), "my studies/first/study.yaml", "my studies/first"),
        (("CONFIG=~/my studies/first/study.yaml",), "my studies/first/study.yaml", "my studies/first"),
        (("CONFIG={here}/my studies/first/study.yaml",), "my studies/first/study.yaml", "my studies/first"),
    ],
)
def test_the_folder_of_a_study_is_that_of_its_configuration(make, installed, target, words, config, folder):
    output = make(target, *(word.format(here=installed) for word in words)).stdout
    place = f"<--directory>\n<{installed / folder}>\n<--configfile>\n<{installed / config}>\n"
    assert output.count(place) == output.count("<--snakefile>") > 0
    assert "<--cores>" not in output


def test_the_number_of_cores_can_be_named(make, installed):
    assert "<all>\n<--cores>\n<2>\n" in make("study", "CORES=2").stdout


def test_a_configuration_that_is_not_there_is_named(make, installed):
    done = make("study", "CONFIG=nowhere.yaml")
    assert done.returncode != 0
    assert "there is no file 'nowhere.yaml'; name one with CONFIG=" in done.stderr


def test_help_tells_of_every_target(make):
    described = re.findall(r"^make ?(\S*) {2,}\S", make("help").stdout, re.MULTILINE)
    assert {name or "study" for name in described} == TARGETS
    assert set(re.search(r"\.PHONY: (.*)", MAKEFILE.read_text())[1].split()) == TARGETS


def test_clean_keeps_the_page_about_results(make, tmp_path):
    for name in ("config/config.yaml", "flowers/study.yaml", "flowers/results/summary.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in ("README.md", "summary.csv", "plots/pareto.png", "old config/notes", ".hidden"):
        (tmp_path / "results" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "results" / name).touch()
    make("clean")
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["README.md"]
    assert (tmp_path / "config").is_dir()
    assert (tmp_path / "flowers/results/summary.csv").exists()
    make("clean", "CONFIG=flowers/study.yaml")
    assert not [*(tmp_path / "flowers/results").iterdir()]
