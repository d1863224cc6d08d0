"""Files of a study on another machine: the program that times them, run as its user runs it, and what comes back."""

import contextlib
import csv
import json
import pathlib
import shutil
import subprocess
import sys
import zipfile

import numpy
import onnx
import pytest
from networks import DATASET, ReusedBlock, images, lively, onnx_logits
from test_quantize import float_model

from bundle_elsewhere import bundle_elsewhere
from elagage.errors import UserError
from elagage.files import read_json, sha256, write_csv, write_json, write_refusal
from elagage.onnx.deployed import write_deployed
from elagage.onnx.quantization import quantize
from read_elsewhere import read_elsewhere

DENSE, STATIC, OTHER = (f"results/models/net/seed0/{name}.onnx" for name in ("dense-float32", "dense-static", "0.5"))
PIXELS = images(20)


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> pathlib.Path:
    """Return a folder with the files of a study whose answer is its static file, and with the bundle of them."""
    folder = tmp_path_factory.mktemp("study")
    float32 = float_model(lively(ReusedBlock()), ReusedBlock)
    models = {DENSE: float32, STATIC: quantize(float32, "static", PIXELS), OTHER: float32}
    (folder / "results/models/net/seed0").mkdir(parents=True)
    numpy.save(folder / "images.npy", PIXELS)
    write_json(folder / "dataset.json", {"classes": DATASET.classes})
    rows = []
    for file, model in models.items():
        copied = onnx.ModelProto()
        copied.CopyFrom(model)
        write_deployed(folder / file, copied, DATASET, {})
        predicted = onnx_logits(onnx.load(folder / file), PIXELS).argmax(1)
        predicted[:3] = (predicted[:3] + 1) % 3 if file == STATIC else predicted[:3]
        numpy.save(folder / f"{file}.npy", predicted.astype(numpy.int32))
        rows.append({"file": file, "model": "net", "seed": 0, "predictions": f"{file}.npy"})
    write_json(folder / "answer.json", {"reference": {"file": DENSE}, "answers": {"time": {"file": STATIC}}})
    write_json(folder / "rows.json", rows)
    bundled(folder, "elsewhere.pyz")
    return folder


def bundled(folder: pathlib.Path, name: str) -> bytes:
    with contextlib.chdir(folder):
        arguments = read_json("rows.json"), {"net": "images.npy"}, "dataset.json", name
        bundle_elsewhere("answer.json", *arguments)
    return (folder / name).read_bytes()


def run(folder: pathlib.Path, where: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, folder / "elsewhere.pyz", *arguments]
    return subprocess.run(command, cwd=where, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def table(study, tmp_path_factory) -> pathlib.Path:
    """Return what the program writes in an empty folder."""
    where = tmp_path_factory.mktemp("elsewhere")
    done = run(study, where, "--images", "20", "--output", "pi.csv")
    assert done.returncode == 0, done.stderr
    assert "Put pi.csv into the folder 'elsewhere'" in done.stdout
    return where / "pi.csv"


def test_the_bundle_holds_the_answer_and_the_dense_files_and_is_the_same_every_time(study):
    assert bundled(study, "again.pyz") == (study / "elsewhere.pyz").read_bytes()
    with zipfile.ZipFile(study / "elsewhere.pyz") as bundle:
        listed = json.loads(bundle.read("files.json"))
        assert [row["file"] for row in listed] == [DENSE, STATIC]
        assert bundle.read(listed[1]["onnx"]) == (study / STATIC).read_bytes()


def test_each_file_is_timed_against_the_dense_one_and_other_answers_are_counted(table):
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 10
    assert all(float(row["time_ms"]) > 0 and float(row["speedup"]) > 0 for row in rows)
    assert {float(row["speedup"]) for row in rows if row["file"] == DENSE} == {1.0}
    assert {row["file"]: (row["different"], row["compared"]) for row in rows} == {
        DENSE: ("0", "20"),
        STATIC: ("3", "20"),
    }
    assert {row["machine"] for row in rows} != {""}


def test_what_came_back_is_joined_with_an_interval(study, table, tmp_path, monkeypatch):
    monkeypatch.chdir(study)
    read_elsewhere([str(table)], [DENSE, STATIC, OTHER], str(tmp_path / "joined.json"))
    dense, static = read_json(tmp_path / "joined.json")
    assert dense["current"] and static["current"]
    assert dense["speedup"] == [1.0, 1.0, 1.0]
    mean, low, high = static["time_ms"]
    assert low <= mean <= high
    assert (static["different"], static["compared"], static["images"]) == (3, 20, 20)


def test_a_file_that_was_made_again_since_is_told_apart(study, table, tmp_path, monkeypatch):
    monkeypatch.chdir(study)
    changed = table.read_text().replace(sha256(STATIC), "0" * 64)
    (tmp_path / "pi.csv").write_text(changed)
    read_elsewhere([str(tmp_path / "pi.csv")], [DENSE], str(tmp_path / "joined.json"))
    assert [row["current"] for row in read_json(tmp_path / "joined.json")] == [True, False]


@pytest.mark.parametrize("content", ["", "machine,cpu\npi,arm\n", "not a table"])
def test_another_table_is_named(content, tmp_path):
    (tmp_path / "mine.csv").write_text(content)
    with pytest.raises(UserError, match=r"mine\.csv: damaged, or not a file of this study"):
        read_elsewhere([str(tmp_path / "mine.csv")], [], str(tmp_path / "joined.json"))
    assert not (tmp_path / "joined.json").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: rows[:1], "one row for each of 10 loads"),
        (lambda rows: rows[:6], "one row for each of 10 loads"),
        (lambda rows: [*rows, *rows], "one row for each of 10 loads"),
        (lambda rows: [row | {"different": str(number)} for number, row in enumerate(rows)], "differ in different"),
        (lambda rows: [row | {"speedup": "nan"} for row in rows], "not above 0, or infinite"),
        (lambda rows: [row | {"time_ms": "inf"} for row in rows], "not above 0, or infinite"),
        (lambda rows: [rows[0] | {"threads": "2"}, *rows[1:]], "differ in threads"),
        (lambda rows: [row | {"time_ms": "0.0"} for row in rows], "not above 0"),
    ],
)
def test_a_table_that_is_cut_or_of_two_runs_is_named(table, tmp_path, change, words):
    with table.open(newline="") as file:
        write_csv(tmp_path / "cut.csv", change(list(csv.DictReader(file))))
    with pytest.raises(UserError, match=rf"cut\.csv: damaged.*{words}"):
        read_elsewhere([str(tmp_path / "cut.csv")], [], str(tmp_path / "joined.json"))


def test_a_dense_mode_that_was_refused_is_left_out_of_the_bundle(study, tmp_path):
    folder = shutil.copytree(study, tmp_path / "study")
    refused = DENSE.replace("float32", "qat")
    write_refusal(folder / refused, "qat is impossible")
    row = {"file": refused, "model": "net", "seed": 0, "predictions": f"{refused}.npy"}
    write_json(folder / "rows.json", [*read_json(folder / "rows.json"), row])
    assert bundled(folder, "again.pyz") == (study / "elsewhere.pyz").read_bytes()


def test_mistakes_of_the_user_of_the_program_end_without_a_traceback(study, tmp_path):
    for arguments, message in (
        (["--images", "0"], "--images and --threads have to be 1 or more"),
        (["--bundle", "nothing.pyz"], "nothing.pyz"),
        (["--output", "missing/folder.csv", "--images", "1"], "missing/folder.csv: there is no folder"),
        (["--output", ".", "--images", "1"], ".: cannot be written"),
    ):
        done = run(study, tmp_path, *arguments)
        assert done.returncode != 0
        assert message in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
