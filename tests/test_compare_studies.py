"""The comparison of two runs of a study: bytes, numbers that chance explains or not, and what was asked for."""

import pathlib
import shutil
import subprocess
import sys

import numpy
import pandas
import pytest

from elagage.files import sha256, write_json
from elagage.statistics import adjusted, p_of_accuracies, ratio_of_means

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "tools"))

from compare_studies import Run, compared_files, compared_numbers, compared_settings, report

REPOSITORY = pathlib.Path(__file__).parent.parent
IMAGES = 400
FILES = [f"results/models/m/seed0/global/{rate}/none-float32.onnx" for rate in (0.3, 0.5, 0.7)]


def run(folder: pathlib.Path, wrong: int = 20, first_wrong: int = 0, slower: float = 1, seed: int = 0) -> Run:
    """Write what a comparison reads of a study, and read it.

    wrong, first_wrong: of the test images in a row are wrong, from this one on; slower: factor of all times; seed: of
    the test images.
    """
    data = folder / "results/data"
    data.mkdir(parents=True)
    labels = numpy.arange(IMAGES) % 10
    numpy.save(data / "test_labels.npy", labels)
    numpy.save(data / "test_images.npy", numpy.random.default_rng(seed).integers(0, 255, (IMAGES, 1, 2, 2)))
    write_json(data / "dataset.json", {"sha256": {file.name: sha256(file) for file in data.glob("*.npy")}})
    predicted = labels.copy()
    predicted[first_wrong : first_wrong + wrong] += 1
    for file in FILES:
        onnx = folder / file
        onnx.parent.mkdir(parents=True)
        onnx.write_text(f"{wrong} {first_wrong}")
        numpy.save(onnx.with_suffix(".predictions.npy"), predicted)
        write_json(onnx.with_suffix(".size.json"), {"provenance": {"elagage": "1.0.0"}})
    times = {f"inference_time{bound}_ms": slower * (1 + error) for bound, error in BOUNDS.items()}
    speedups = {f"speedup{bound}": 2 + error for bound, error in BOUNDS.items()}
    versions = {"torch": "2", "onnxruntime": "1", "cpu": "x", "instruction_set": "avx2", "threads": 1}
    sizes = {"model_size_bytes": 1000, "packed_size_bytes": 500}
    rows = [{"file": file, "accuracy": 1 - wrong / IMAGES} | times | speedups | versions | sizes for file in FILES]
    pandas.DataFrame(rows).to_csv(folder / "results/summary.csv", index=False)
    (folder / "study.yaml").write_text("seeds: [0]\ntraining: {epochs: 3}\n")
    return Run.read(str(folder))


BOUNDS = {"": 0, "_low": -0.01, "_high": 0.01}


@pytest.fixture
def first(tmp_path) -> Run:
    return run(tmp_path / "first")


def row(rows: list[dict], name: str) -> dict:
    return next(row for row in rows if row[""].startswith(name))


def test_a_copy_is_the_same_throughout(first, tmp_path):
    shutil.copytree(first.folder, tmp_path / "copy")
    copy = Run.read(str(tmp_path / "copy/study.yaml"))
    numbers, beyond = compared_numbers(first, copy)
    assert all(row["same"] == len(FILES) for row in numbers) and not beyond
    assert row(compared_files(first, copy), "ONNX")["same bytes"] == len(FILES)
    assert compared_settings(first, copy) == []
    text = report(first, copy)
    assert "Configuration, images, versions and machine are the same." in text
    assert "byte for byte. No number differs by more than chance." in text


@pytest.mark.parametrize(("wrong", "column"), [(24, "differ by chance"), (80, "differ by more")])
def test_accuracies_differ_by_chance_or_by_more(first, tmp_path, wrong, column):
    numbers, beyond = compared_numbers(first, run(tmp_path / "second", wrong))
    assert row(numbers, "accuracy, image by image")[column] == len(FILES)
    assert {row["file"] for row in beyond} == (set(FILES) if column == "differ by more" else set())


def test_the_same_share_of_other_images_wrong_is_no_difference_in_accuracy_but_not_the_same(first, tmp_path):
    numbers, _ = compared_numbers(first, run(tmp_path / "second", first_wrong=200))
    assert row(numbers, "accuracy")["differ by chance"] == len(FILES)


def test_other_test_images_are_not_paired(first, tmp_path):
    numbers, _ = compared_numbers(first, run(tmp_path / "second", seed=1))
    assert row(numbers, "accuracy, other test images")["differ by chance"] == len(FILES)


@pytest.mark.parametrize(("slower", "column"), [(1.01, "differ by chance"), (1.1, "differ by more")])
def test_times_differ_by_chance_or_by_more(first, tmp_path, slower, column):
    numbers, _ = compared_numbers(first, run(tmp_path / "second", slower=slower))
    assert row(numbers, "time")[column] == len(FILES)
    assert row(numbers, "speed-up")["same"] == len(FILES)


def test_what_was_asked_for_is_told_where_it_differs(first, tmp_path):
    second = run(tmp_path / "second")
    (second.folder / "study.yaml").write_text("training: {epochs: 4}\n")
    differences = {row["setting"]: (row["A"], row["B"]) for row in compared_settings(first, Run.read(second.folder))}
    assert differences == {"seeds": ("[0]", "as is default"), "training.epochs": ("3", "4")}


def test_other_images_are_told(first, tmp_path):
    second = run(tmp_path / "second", seed=1)
    assert "test images" in {row["setting"] for row in compared_settings(first, second)}


def test_files_of_one_run_only_are_counted(first, tmp_path):
    second = run(tmp_path / "second")
    (second.folder / FILES[0]).unlink()
    found = row(compared_files(first, second), "ONNX")
    assert (found["same bytes"], found["only in A"], found["only in B"]) == (len(FILES) - 1, 1, 0)


def test_runs_without_a_common_file_are_not_called_the_same(first, tmp_path):
    run(tmp_path / "second")
    shutil.move(tmp_path / "second/results/models/m", tmp_path / "second/results/models/other")
    summary = tmp_path / "second/results/summary.csv"
    summary.write_text(summary.read_text().replace("models/m/", "models/other/"))
    text = report(first, Run.read(str(tmp_path / "second")))
    assert "no file of the same name" in text
    assert "byte for byte" not in text


def test_a_folder_without_results_is_named(tmp_path):
    command = [sys.executable, str(REPOSITORY / "tools/compare_studies.py"), str(tmp_path), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {tmp_path}: there is no") and "Traceback" not in done.stderr


# --- statistics


def test_paired_images_tell_more_than_other_images():
    before = numpy.arange(500) >= 10
    after = numpy.arange(500) >= 20
    assert p_of_accuracies(before, after, paired=True) == pytest.approx(2 * 0.5**10)
    assert p_of_accuracies(before, after, paired=False) > 0.05
    assert p_of_accuracies(before, before, paired=True) == 1


def test_equal_means_are_rejected_in_one_of_twenty_cases():
    random = numpy.random.default_rng(0)
    p_values = []
    for _ in range(2000):
        runs = random.normal(0, 0.1, (2, 10))
        half = 2.2622 * runs.std(1, ddof=1) / numpy.sqrt(10)  # Student's t of nine degrees of freedom
        first, second = (
            tuple(numpy.exp([mean, mean - error, mean + error])) for mean, error in zip(runs.mean(1), half, strict=True)
        )
        _, low, high, p_value = ratio_of_means(first, second, 10)
        assert (low <= 1 <= high) == (p_value >= 0.05)
        p_values.append(p_value)
    assert 0.035 < numpy.mean(numpy.array(p_values) < 0.05) < 0.065


def test_adjusted_p_values_are_those_of_holm():
    assert adjusted([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert adjusted([]) == []
