"""Files appear whole or not at all, whatever ends the writing."""

import hashlib
import json
import os
import pathlib
import random
import resource
import stat
import subprocess
import sys
import time

import numpy
import pytest
import torch
from runners import SCRIPTS

from elagage.data import save_array
from elagage.errors import UserError
from elagage.files import read_json, sha256, whole_file, write_json
from elagage.pytorch.checkpoints import save_checkpoint
from elagage.pytorch.training_state import TrainingState


def content(folder: pathlib.Path) -> dict[str, str]:
    """Return the text of every file in the folder, hidden ones too."""
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_a_file_replaces_the_old_one_once_the_block_ends(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with whole_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
        assert (tmp_path / "a.txt").read_text() == "old"
    assert content(tmp_path) == {"a.txt": "new"}


@pytest.mark.parametrize("before", [{}, {"a.txt": "old"}], ids=["no old file", "old file"])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_block_that_raises_leaves_the_folder_as_it_was(tmp_path, before, error):
    for name, text in before.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(error), whole_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("half of the n")
        raise error
    assert content(tmp_path) == before


def test_missing_folders_are_created(tmp_path):
    with whole_file(tmp_path / "b" / "c" / "a.txt") as temporary:
        temporary.write_text("new")
    assert content(tmp_path / "b" / "c") == {"a.txt": "new"}


def test_the_temporary_file_lies_beside_its_target_under_the_same_ending(tmp_path):
    with whole_file(tmp_path / "model.onnx.packed") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".packed"
        assert temporary.name.startswith(".")


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_follow_the_umask_which_stays_as_it_was(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        with whole_file(tmp_path / "a.txt") as temporary:
            temporary.write_text("new")
    finally:
        after = os.umask(before)
    assert after == umask
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == mode


def test_two_writers_of_one_file_do_not_mix(tmp_path):
    with whole_file(tmp_path / "a.txt") as first, whole_file(tmp_path / "a.txt") as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert content(tmp_path) == {"a.txt": "first"}  # the inner block, the second writer, ended before


def test_a_path_given_as_text_works_like_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with whole_file("a.txt") as temporary:
        temporary.write_text("new")
    assert content(tmp_path) == {"a.txt": "new"}


def test_a_target_that_is_a_folder_is_left_alone(tmp_path):
    (tmp_path / "a.txt").mkdir()
    with (
        pytest.raises(UserError, match=r"a\.txt: cannot be written \(Is a directory\)"),
        whole_file(tmp_path / "a.txt") as temporary,
    ):
        temporary.write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


ZEROS = numpy.zeros(100_000, numpy.uint8)
WRITERS = {
    "array.npy": lambda path: save_array(path, ZEROS),
    "weights.safetensors": lambda path: save_checkpoint(path, {"weight": torch.zeros(100_000)}, {}),
    "state.pt": lambda path: TrainingState(path, {}).save({"weight": torch.zeros(100_000)}),
    "table.json": lambda path: write_json(path, ["x" * 100_000]),
}


@pytest.mark.slow
@pytest.mark.parametrize("before", [None, b"old"], ids=["no old file", "old file"])
@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_an_error_that_names_the_file_and_leaves_the_old_one(small_disk, name, before):
    path = small_disk / name
    if before is not None:
        path.write_bytes(before)
    with pytest.raises(UserError, match=rf"{path}: cannot be written \(No space left on device\); make room"):
        WRITERS[name](path)
    assert [file.read_bytes() for file in small_disk.iterdir()] == ([] if before is None else [before])


@pytest.mark.parametrize("name", WRITERS)
def test_a_limit_of_file_sizes_is_an_error_that_names_the_file_and_leaves_the_old_one(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(UserError, match=rf"{path}: cannot be written \(File too large\)"):
            WRITERS[name](path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"old"]


def test_an_error_that_is_not_one_of_writing_stays_what_it_is(tmp_path):
    for error in (ZeroDivisionError, UserError):
        with pytest.raises(error, match=r"^mine$"), whole_file(tmp_path / "a.txt"):
            raise error("mine")


WRITE_FOREVER = """
import itertools, pathlib
from elagage.files import whole_file
for number in itertools.count():
    with whole_file("a.txt") as temporary, open(temporary, "w") as file:
        for _ in range(100):
            file.write(f"{number} " * 10_000)
    pathlib.Path("started").touch()
"""


@pytest.mark.parametrize("seed", range(5))
def test_a_process_killed_at_any_moment_leaves_a_whole_file_and_nothing_after_the_next(tmp_path, seed):
    environment = os.environ | {"PYTHONPATH": str(SCRIPTS)}
    process = subprocess.Popen([sys.executable, "-c", WRITE_FOREVER], cwd=tmp_path, env=environment)
    while not (tmp_path / "started").exists():
        time.sleep(0.01)
    time.sleep(random.Random(seed).uniform(0, 0.3))
    process.kill()
    process.wait()
    words = (tmp_path / "a.txt").read_text().split()
    assert len(words) == 1_000_000
    assert len(set(words)) == 1
    with whole_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
    assert {path.name for path in tmp_path.iterdir()} == {"a.txt", "started"}


def test_what_another_process_is_writing_is_left_alone(tmp_path):
    code = """
import sys
from elagage.files import whole_file
with whole_file("a.txt") as temporary:
    temporary.write_text("theirs")
    print("writing", flush=True)
    sys.stdin.readline()
"""
    environment = os.environ | {"PYTHONPATH": str(SCRIPTS)}
    command = [sys.executable, "-c", code]
    other = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "writing\n"
    with whole_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("ours")
    assert (tmp_path / "a.txt").read_text() == "ours"
    other.communicate("\n")
    assert other.returncode == 0
    assert content(tmp_path) == {"a.txt": "theirs"}


@pytest.mark.parametrize("value", [{"a": [1, 2.5, None, "é"]}, [], "text", 0])
def test_json_reads_back_as_it_was_written(tmp_path, value):
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    assert json.loads((tmp_path / "a.json").read_text()) == value


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_json_of_a_number_that_is_not_finite_is_refused_and_the_old_file_stays(tmp_path, value):
    write_json(tmp_path / "a.json", {"accuracy": 0.5})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"accuracy": [value]})
    assert read_json(tmp_path / "a.json") == {"accuracy": 0.5}
    assert len(content(tmp_path)) == 1


def test_a_checksum_is_that_of_all_bytes(tmp_path):
    (tmp_path / "a").write_bytes(bytes(range(256)) * 5000)  # more than one buffer
    assert sha256(tmp_path / "a") == hashlib.sha256(bytes(range(256)) * 5000).hexdigest()
    (tmp_path / "a").write_bytes(b"")
    assert sha256(tmp_path / "a") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
