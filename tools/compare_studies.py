"""Say what differs between two runs of a study: python tools/compare_studies.py --help, or `make compare`."""

import argparse
import os
import pathlib
import re
import sys
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy
import pandas
from tabulate import tabulate

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "scripts"))

from elagage.configuration_file import read_file
from elagage.errors import UserError
from elagage.files import read_json, reading, sha256
from elagage.plan import predicted
from elagage.statistics import CONFIDENCE, adjusted, p_of_accuracies, ratio_of_means
from elagage.timing import LOADS

CONFIGURATIONS = ("study.yaml", "config.yaml", "config/config.yaml")
FILES = {"checkpoints": "*.safetensors", "ONNX files": "*.onnx", "predictions on test images": "*-*.predictions.npy"}
SETTINGS = ("torch", "onnxruntime", "cpu", "instruction_set", "threads")  # columns of the summary
TRAINING = ("train", "recover", "control", "quantize_qat")  # rules, whose logs name the device
TRAINED_ON = re.compile(r"^device=(.+) threads=(\d+)$", re.MULTILINE)
SHOWN = 10  # differences that are listed


class Run(NamedTuple):
    """A finished study: its folder, its configuration as stated, and its measurements, one row per ONNX file."""

    folder: pathlib.Path
    configuration: dict | None
    table: pandas.DataFrame

    @classmethod
    def read(cls, path: str) -> "Run":
        """Read a study; path: its folder or its configuration in it. Raises UserError if there is no finished one."""
        given = pathlib.Path(path)
        folder = given.parent if given.is_file() else given
        summary = folder / "results/summary.csv"
        if not summary.is_file():
            raise UserError(f"{path}: there is no {summary}; name the folder of a study that has run to its end")
        there = [given] if given.is_file() else [folder / name for name in CONFIGURATIONS if (folder / name).is_file()]
        with reading(summary):
            table = pandas.read_csv(summary, keep_default_na=False, na_values={"accuracy": [""]})
            table = table[table["accuracy"].notna()].drop_duplicates("file").set_index("file")
        return cls(folder, read_file(there[0]) if there else None, table)

    def correct(self, file: str) -> numpy.ndarray:
        """Return for each test image, bool [n], whether an ONNX file classified it correctly."""
        with reading(path := self.folder / predicted(file.removesuffix(".onnx"))["predictions"]):
            return numpy.load(path) == numpy.load(self.folder / "results/data/test_labels.npy")

    def images(self) -> dict[str, str]:
        """Return the beginnings of the checksums of the images and of the labels of each split, by name."""
        checksums = read_json(self.folder / "results/data/dataset.json")["sha256"]
        return {file.removesuffix(".npy").replace("_", " "): checksum[:12] for file, checksum in checksums.items()}

    def trained_on(self) -> set[str]:
        """Return the devices that trained, with numbers of threads, as the logs of trainings name them."""
        logs = [log for rule in TRAINING for log in (self.folder / "results/logs" / rule).rglob("*.log")]
        texts = [log.read_text(encoding="utf-8", errors="replace") for log in logs]
        return {f"{device}, {threads} thread(s)" for text in texts for device, threads in TRAINED_ON.findall(text)}

    def settings(self) -> dict[str, str]:
        """Return what the study was asked for, its versions and its machine, by name."""
        found = dict(flat(self.configuration or {}))
        for column in SETTINGS:
            found[column] = ", ".join(sorted(set(map(str, self.table[column]))))
        sizes = (self.folder / file.replace(".onnx", ".size.json") for file in self.table.index)
        found["trained on"] = ", ".join(sorted(self.trained_on()))
        found |= self.images()
        found["elagage"] = ", ".join(sorted({read_json(path)["provenance"]["elagage"] for path in sizes}))
        return found


class Difference(NamedTuple):
    """A quantity of one file in two runs: is it the same, its p-value, how it differs in words, and how much."""

    file: str
    same: bool
    p_value: float
    words: str
    size: float


def flat(table: Mapping, prefix: str = "") -> list[tuple[str, str]]:
    """Return the keys of nested tables, joined by dots, with their values."""
    rows = []
    for key, value in table.items():
        rows += flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", str(value))]
    return rows


def compared_files(first: Run, second: Run) -> list[dict]:
    """Return a row per kind of file: how many have the same bytes, others, and are in one run only."""
    rows = []
    for kind, pattern in FILES.items():
        models = [run.folder / "results/models" for run in (first, second)]
        there = [{file.relative_to(folder) for file in folder.rglob(pattern)} for folder in models]
        both = there[0] & there[1]
        same = sum(sha256(models[0] / file) == sha256(models[1] / file) for file in both)
        only = {"only in A": len(there[0] - there[1]), "only in B": len(there[1] - there[0])}
        rows.append({"": kind, "same bytes": same, "other bytes": len(both) - same} | only)
    return rows


def accuracies(first: Run, second: Run, paired: bool) -> Callable[[str], Difference]:
    """Return a function that compares the accuracy of a file; paired: the test images are the same."""

    def difference(file: str) -> Difference:
        before, after = first.correct(file), second.correct(file)
        same = paired and bool((before == after).all())
        words = f"{before.mean():.2%} and {after.mean():.2%}"
        return Difference(file, same, p_of_accuracies(before, after, paired), words, abs(after.mean() - before.mean()))

    return difference


def means(first: Run, second: Run, column: str) -> Callable[[str], Difference]:
    """Return a function that compares a time or ratio of a file; column: {} stands for the bounds of its interval."""
    columns = [column.format(bound) for bound in ("", "_low", "_high")]

    def difference(file: str) -> Difference:
        before, after = (tuple(run.table.loc[file, columns].astype(float)) for run in (first, second))
        ratio, low, high, p_value = ratio_of_means(before, after, LOADS)
        words = f"{before[0]:.3g} and {after[0]:.3g}, ratio {ratio:.3f} ({low:.3f} to {high:.3f})"
        return Difference(file, before == after, p_value, words, abs(numpy.log(ratio)))

    return difference


def counts(first: Run, second: Run, column: str) -> Callable[[str], Difference]:
    """Return a function that compares a number of a file that no chance changes."""

    def difference(file: str) -> Difference:
        before, after = (int(run.table.loc[file, column]) for run in (first, second))
        words = f"{before:,} and {after:,}, ratio {after / before:.4f}"
        return Difference(file, before == after, float(before == after), words, abs(numpy.log(after / before)))

    return difference


def compared_numbers(first: Run, second: Run) -> tuple[list[dict], list[dict]]:
    """Return a row per quantity, with the numbers of files in which it is the same or differs, and the differences.

    Chance is what tests at 5 % cannot exclude, over all files of a quantity together (Holm).
    """
    files = [file for file in first.table.index if file in second.table.index]
    paired = all(first.images()[name] == second.images()[name] for name in ("test images", "test labels"))
    quantities = {
        f"accuracy, {'image by image' if paired else 'other test images'}": accuracies(first, second, paired),
        "time of an image (ms)": means(first, second, "inference_time{}_ms"),
        "speed-up": means(first, second, "speedup{}"),
        "file size (bytes)": counts(first, second, "model_size_bytes"),
        "packed size (bytes)": counts(first, second, "packed_size_bytes"),
    }
    rows, listed = [], []
    for name, compare in quantities.items():
        differences = [compare(file) for file in files]
        chances = adjusted([difference.p_value for difference in differences])
        beyond = [row for row, chance in zip(differences, chances, strict=True) if chance < 1 - CONFIDENCE]
        same = sum(row.same for row in differences)
        largest = max(differences, key=lambda row: row.size, default=None)
        rows.append(
            {
                "": name,
                "same": same,
                "differ by chance": len(files) - same - len(beyond),
                "differ by more": len(beyond),
                "largest difference, A and B": largest.words if largest and largest.size else "",
            }
        )
        beyond.sort(key=lambda row: -row.size)
        listed += [{"differs by more than chance": name, "file": row.file, "A and B": row.words} for row in beyond]
    return rows, listed


def compared_settings(first: Run, second: Run) -> list[dict]:
    """Return a row per setting that differs."""
    before, after = first.settings(), second.settings()
    return [
        {"setting": name, "A": before.get(name, "as is default"), "B": after.get(name, "as is default")}
        for name in dict.fromkeys([*before, *after])
        if before.get(name) != after.get(name)
    ]


def report(first: Run, second: Run) -> str:
    """Return what differs between two runs, as text."""
    files, settings = compared_files(first, second), compared_settings(first, second)
    numbers, beyond = compared_numbers(first, second)
    parts = [
        f"A: {first.folder}\nB: {second.folder}",
        tabulate(files, headers="keys"),
        tabulate(numbers, headers="keys"),
    ]
    if beyond:
        parts.append(
            tabulate(beyond[:SHOWN], headers="keys") + f"\n... and {len(beyond) - SHOWN} more" * (len(beyond) > SHOWN)
        )
    for name, run in (("A", first), ("B", second)):
        if run.configuration is None:
            parts.append(
                f"{name} has none of {', '.join(CONFIGURATIONS)}: name its configuration instead of its folder."
            )
    parts.append(
        tabulate(settings, headers="keys") if settings else "Configuration, images, versions and machine are the same."
    )
    return "\n\n".join([*parts, conclusion(files, numbers, settings)]) + "\n"


def conclusion(files: list[dict], numbers: list[dict], settings: list[dict]) -> str:
    """Return in a few sentences whether one run reproduces the other."""
    if not any(row["same bytes"] or row["other bytes"] for row in files):
        return "They have no file of the same name: nothing can be compared."
    other = {row[""]: row["other bytes"] for row in files if row["other bytes"]}
    beyond = [row[""].partition(",")[0].partition(" (")[0] for row in numbers if row["differ by more"]]
    sentences = [
        f"Other bytes have {', '.join(f'{count} {kind}' for kind, count in other.items())}."
        if other
        else "All files that both have are the same, byte for byte.",
        f"Differ by more than chance: {', '.join(beyond)}." if beyond else "No number differs by more than chance.",
    ]
    if "checkpoints" in other and "trained on" in {row["setting"] for row in settings}:
        sentences.append(
            "Weights differ where the device or its number of threads does: sums are taken in another order."
        )
    return " ".join(sentences)


def main() -> None:
    """Read the command line and print what differs."""
    parser = argparse.ArgumentParser(prog="make compare", description=__doc__)
    parser.add_argument(
        "first", metavar="A", type=os.path.expanduser, help="folder of a study that has run, or its configuration in it"
    )
    parser.add_argument("second", metavar="B", type=os.path.expanduser, help="folder of the other one")
    arguments = parser.parse_args()
    if not arguments.first or not arguments.second:
        parser.error("name both: make compare A=folder B=folder")
    try:
        print(report(Run.read(arguments.first), Run.read(arguments.second)), end="")
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
