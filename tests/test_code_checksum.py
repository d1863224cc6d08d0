"""The checksum of code: which files it takes, compared with what Python really imports, and what changes it."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

from elagage.code_checksum import code_checksums, digest, source_files
from elagage.user_code import import_roots, module_name

SCRIPTS = pathlib.Path(__file__).parent.parent / "scripts"
# Prints the files that importing a user's model, as a job does it, imports below the working directory.
IMPORTED_BY_A_JOB = """
import json, os, pathlib, sys
from elagage.user_code import import_user_module, users_first
with users_first(sys.argv[1]):
    import_user_module(sys.argv[1])
    modules = list(sys.modules.values())
files = [getattr(module, "__file__", None) for module in modules]
print(json.dumps(sorted({os.path.relpath(file) for file in files if file and file.startswith(os.getcwd() + os.sep)})))
"""
# Prints for each script the files below scripts/ that it imports.
IMPORTED_BY_SCRIPTS = """
import importlib, json, os, sys
found = {}
for script in sys.argv[1:]:
    for name in [name for name in sys.modules if name.partition(".")[0] == "elagage" or name in sys.argv[1:]]:
        del sys.modules[name]
    importlib.import_module(script)
    files = [getattr(module, "__file__", None) or "" for module in list(sys.modules.values())]
    found[script] = sorted(os.path.relpath(file) for file in files if file.startswith(os.getcwd() + os.sep))
print(json.dumps(found))
"""


def wrote(folder: pathlib.Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def taken(file: str | pathlib.Path) -> list[str]:
    """Return the files that the checksum of a user's file takes, from the working directory."""
    return sorted(os.path.relpath(path) for path in source_files(file, import_roots(file)))


def imported(file: str) -> list[str]:
    """Return the files that a real import of a user's file takes."""
    environment = os.environ | {"PYTHONPATH": str(SCRIPTS)}
    run = subprocess.run(
        [sys.executable, "-P", "-c", IMPORTED_BY_A_JOB, file],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    return json.loads(run.stdout)


@pytest.fixture(autouse=True)
def study(tmp_path, monkeypatch) -> pathlib.Path:
    """An empty folder for a study, where every test runs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_all_forms_of_import_are_found(study):
    wrote(
        study,
        {
            "my_model.py": "import plain\nimport pack.inner.leaf as leaf\nfrom pack import module\n"
            "from mymodels import layers\nfrom pack.inner import function\nfrom spread.deep import part\n"
            "from starred import *\nimport json, numpy\n",
            "plain.py": "",
            "pack/__init__.py": "from . import sibling\nfrom .cousin import value\n",
            "pack/sibling.py": "",
            "pack/cousin.py": "value = 1\n",
            "pack/module.py": "from .inner.twig import *\n",
            "pack/inner/__init__.py": "from .. import uncle\nfrom ..aunt import value\ndef function(): pass\n",
            "pack/inner/leaf.py": "",
            "pack/inner/twig.py": "",
            "pack/uncle.py": "import plain\n",
            "pack/aunt.py": "value = 2\n",
            "pack/unused.py": "",
            "mymodels/layers.py": "",
            "mymodels/unused.py": "",
            "spread/deep/part.py": "",
            "starred/__init__.py": "__all__ = ['moon', 'name']\nname = 3\n",
            "starred/moon.py": "",
            "starred/unused.py": "",
        },
    )
    expected = imported("my_model.py")
    assert taken("my_model.py") == expected
    assert len(expected) == 15
    assert not [name for name in expected if "unused" in name]


def test_imports_inside_functions_and_conditions_are_taken_too(study):
    wrote(
        study,
        {
            "my_model.py": "def build():\n    from late import layer\n    return layer\nif False:\n    import never\n",
            "late/__init__.py": "",
            "late/layer.py": "",
            "never.py": "",
        },
    )
    assert set(taken("my_model.py")) == {"my_model.py", "late/__init__.py", "late/layer.py", "never.py"}
    assert set(imported("my_model.py")) < set(taken("my_model.py"))


@pytest.mark.parametrize("package", ["", "net/__init__.py"])
@pytest.mark.parametrize("line", ["from net.blocks import Block", "from .blocks import Block", "from . import blocks"])
def test_a_model_in_a_folder_imports_its_neighbours_absolutely_and_relatively(study, line, package):
    wrote(study, {"net/model.py": f"{line}\n", "net/blocks.py": "Block = 1\n", **({package: ""} if package else {})})
    assert (
        taken("net/model.py")
        == imported("net/model.py")
        == sorted(filter(None, ["net/model.py", "net/blocks.py", package]))
    )


@pytest.mark.parametrize(
    "all_names",
    ["__all__ = []\n__all__.extend(['leaf'])\n", "__all__ = 'leaf'.split()\n", "from .names import __all__\n"],
)
def test_a_star_import_takes_all_modules_where_the_names_are_computed(study, all_names):
    wrote(study, {"my_model.py": "from pack import *\n", "pack/__init__.py": all_names, "pack/leaf.py": ""})
    wrote(study, {"pack/names.py": "__all__ = ['leaf']\n"})
    assert set(imported("my_model.py")) <= set(taken("my_model.py"))
    assert "pack/leaf.py" in imported("my_model.py")


def test_a_package_goes_before_a_folder_of_the_same_name_nearer_to_the_model(study):
    wrote(study, {"net/model.py": "import pack.b\n", "net/pack/b.py": "", "pack/__init__.py": "", "pack/b.py": ""})
    assert imported("net/model.py") == ["net/model.py", "pack/__init__.py", "pack/b.py"]
    assert set(imported("net/model.py")) < set(taken("net/model.py"))


@pytest.mark.parametrize("folder", ["code/nets", "json", "test/nets", "onnx/nets", "prune/nets"])
def test_a_model_in_a_folder_named_like_another_module_is_the_users(study, folder):
    wrote(study, {f"{folder}/decoder.py": "import beside\n", f"{folder}/beside.py": ""})
    assert imported(f"{folder}/decoder.py") == [f"{folder}/beside.py", f"{folder}/decoder.py"]


@pytest.mark.parametrize(
    "name", ["train", "prune", "quantize", "plot", "elagage", "elagage/__init__", "elagage/data", "elagage/errors"]
)
def test_a_neighbour_with_the_name_of_a_module_of_elagage_is_the_users(study, name):
    wrote(study, {"my_model.py": f"import {name.removesuffix('/__init__').replace('/', '.')}\n", f"{name}.py": ""})
    assert taken("my_model.py") == imported("my_model.py") == sorted(["my_model.py", f"{name}.py"])


def test_a_package_that_imports_the_model_itself_is_imported_once(study):
    wrote(study, {"net/__init__.py": "from .model import build\n", "net/model.py": "def build(): pass\n"})
    assert taken("net/model.py") == imported("net/model.py") == ["net/__init__.py", "net/model.py"]


def test_a_model_outside_of_the_study_imports_its_neighbours(study, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    wrote(elsewhere, {"net/__init__.py": "", "net/model.py": "from net.blocks import x\n", "net/blocks.py": "x = 1\n"})
    names = [os.path.relpath(elsewhere / name) for name in ("net/__init__.py", "net/blocks.py", "net/model.py")]
    assert taken(elsewhere / "net/model.py") == names
    assert module_name(elsewhere / "net/model.py") == "net.model"
    wrote(elsewhere, {"alone.py": "import beside\n", "beside.py": ""})
    assert taken(elsewhere / "alone.py") == [os.path.relpath(elsewhere / name) for name in ("alone.py", "beside.py")]
    assert module_name(elsewhere / "alone.py") is None


def test_circles_broken_files_and_missing_ones_end(study):
    wrote(study, {"a.py": "import b, gone\n", "b.py": "import a\nimport broken\n", "broken.py": "def (\n"})
    assert taken("a.py") == ["a.py", "b.py", "broken.py"]
    assert taken("gone.py") == ["gone.py"]
    assert "missing" in code_checksums("gone.py", import_roots("gone.py"))


def test_the_files_of_every_script_are_those_that_python_imports():
    scripts = sorted(path.stem for path in SCRIPTS.glob("*.py"))
    if importlib.util.find_spec("openvino") is None:
        scripts.remove("evaluate_openvino")
    run = subprocess.run(
        [sys.executable, "-c", IMPORTED_BY_SCRIPTS, *scripts], capture_output=True, text=True, cwd=SCRIPTS, check=True
    )
    expected = json.loads(run.stdout)
    for script in scripts:
        files = source_files(SCRIPTS / f"{script}.py", (SCRIPTS,))
        assert [os.path.relpath(path, SCRIPTS) for path in files] == expected[script]


def test_a_checksum_names_its_file_from_the_root_that_it_lies_in(study):
    wrote(study, {"net/model.py": "from .blocks import x\nimport top\n", "net/blocks.py": "x = 1\n", "top.py": ""})
    before = code_checksums("net/model.py", import_roots("net/model.py"))
    assert [entry.partition(":")[0] for entry in before.split()] == ["blocks.py", "model.py", "top.py"]
    moved = study / "moved"
    wrote(moved, {path: (study / path).read_text() for path in ("net/model.py", "net/blocks.py", "top.py")})
    os.chdir(moved)
    assert code_checksums("net/model.py", import_roots("net/model.py")) == before


SOURCE = '''#!/usr/bin/env python
"""A module."""

import math  # a comment


class Layer:
    """A class."""

    size: int = 3

    def forward(self, x, *rest, scale=1.0, **options):
        """A method."""
        # a comment
        return f"{x!r:>{self.size}} {'a' if x else 'b'}" + 'it\\'s' * (2 ** -1)


async def nothing():
    """A function with nothing but a docstring."""
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# a comment", "# another one"),
        ('"""A module."""', '"""Another text."""'),
        ('    """A method."""\n', ""),
        ("size: int = 3", "size: int = (3)"),
        ("\n\n\n", "\n\n"),
        ('"""A function with nothing but a docstring."""', "pass"),
    ],
)
def test_comments_docstrings_and_layout_do_not_change_the_checksum(old, new):
    assert old in SOURCE
    assert digest(SOURCE.replace(old, new).encode()) == digest(SOURCE.encode())


@pytest.mark.parametrize(
    ("old", "new"), [("scale=1.0", "scale=1.5"), ("math", "cmath"), ("'a'", "'A'"), ("async ", "")]
)
def test_what_the_code_does_changes_the_checksum(old, new):
    assert old in SOURCE
    assert digest(SOURCE.replace(old, new, 1).encode()) != digest(SOURCE.encode())


def test_a_checksum_is_the_same_in_every_version_of_python():
    assert digest(SOURCE.encode()) == "82f5a40499f8ed97828bc858cb5aa47abba7465e56f02755b5e9239892a20320"


def test_a_text_that_is_no_docstring_counts():
    assert digest(b"x = 1\n'text'\n") != digest(b"x = 1\n")
    assert digest(b"def f():\n    x = 1\n    return 'a'\n") != digest(b"def f():\n    x = 1\n    return 'b'\n")


@pytest.mark.parametrize(
    "source", [b"def (", b"\xff", b"x = " + b"1 + " * 9000 + b"1"], ids=["syntax", "bytes", "deep"]
)
def test_code_that_cannot_be_parsed_has_a_checksum_of_its_bytes(study, source):
    (study / "my_model.py").write_bytes(source)
    assert taken("my_model.py") == ["my_model.py"]
    assert digest(source) != digest(source + b"\n")
