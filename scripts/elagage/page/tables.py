"""What the page shows: the rows of summary.csv and the values of answer.json, each with where it stands.

Numbers stay the text that stands in the file, so that what the page shows can be compared with it byte for byte. A
place is written as the standards do: `summary.csv#cell=3,8` (row and column, from 1; RFC 7111) and
`answer.json#/answers/time/loss_points` (JSON Pointer, RFC 6901).
"""

import csv
import functools
import io
import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from markupsafe import Markup

from elagage.files import read_json, reading, refusal
from elagage.int8_harm import MEASURED
from elagage.objectives import OBJECTIVES

SUMMARY, ANSWER = "summary.csv", "answer.json"
NAMES = ("model", "seed", "scope", "rate", "recovery", "mode")
FILTERS = ("model", "seed", "scope", "recovery", "mode")
SETTING = ("cpu", "instruction_set", "threads", "latency_images", "onnxruntime", "torch")
CHARTED = (
    *("loss_points", "loss_low", "loss_high", "accuracy", "model_size_bytes", "packed_size_bytes"),
    *("time_ms", "time_low_ms", "time_high_ms", "speedup", "rate"),
)
# Of the tables of trainings and sensitivities, what is charted.
NUMBERS = {"epoch", "train_accuracy", "validation_accuracy", "rate", "correct", "dense_correct", "images", *MEASURED}


class Study:
    """The tables of a study.

    Attributes:
        answer: what the rule certify wrote.
        rows: of summary.csv, as text by column, and in `row` the number of the row there, from 1 with the header.
    """

    def __init__(self, summary: str | os.PathLike, answer: str | os.PathLike) -> None:
        """Read summary.csv and answer.json; raises UserError if one is damaged."""
        self.answer = read_json(answer)
        with reading(summary):
            self.csv = pathlib.Path(summary).read_text(encoding="utf-8")
            reader = csv.DictReader(io.StringIO(self.csv, newline=""), strict=True)
            self.rows: list[dict[str, Any]] = [row | {"row": number} for number, row in enumerate(reader, 2)]
            if not self.rows:
                raise ValueError("it has no rows")
            self.columns = {name: number for number, name in enumerate(reader.fieldnames or [], 1)}

    @functools.cached_property
    def files(self) -> list[dict[str, Any]]:
        """A row per ONNX file that was measured: the first that names it. Dense ones have no scope and no recovery.

        Controls have the recovery that they are controls of.
        """
        found: dict[str, dict[str, Any]] = {}
        for row in self.rows:
            if not row["refused"]:
                dense = {"scope": ""} if float(row["rate"]) == 0 else {}
                if row["file"].rpartition("/")[2].startswith("dense-"):
                    dense["recovery"] = ""
                found.setdefault(row["file"], row | dense)
        return list(found.values())

    @property
    def passed(self) -> set[str]:
        """The files that are certified."""
        return {row["file"] for row in self.answer["sequence"] if row["passed"]}

    @property
    def chosen(self) -> dict[str, list[str]]:
        """File -> the objectives that it is the answer by."""
        found: dict[str, list[str]] = {}
        for objective, row in self.answer["answers"].items():
            found.setdefault(row["file"], []).append(objective)
        return found

    @property
    def notable(self) -> list[dict[str, Any]]:
        """The rows of the reference, of the answers and of all files that were tested, in this order."""
        names = [self.answer["reference"]["file"], *self.chosen, *(row["file"] for row in self.answer["sequence"])]
        rows = {row["file"]: row for row in self.files}
        return [rows[name] for name in dict.fromkeys(names) if name in rows]

    @property
    def dense(self) -> list[dict[str, Any]]:
        """The rows of a dense network of the reference's model and seed, one for each mode.

        If that is in one mode only, as in a study whose only recovery trains, those of a control.
        """
        groups: dict[str, list[dict[str, Any]]] = {"": []}
        for row in self.files:
            if float(row["rate"]) == 0 and self.is_of_reference(row):
                groups.setdefault(row["recovery"], []).append(row)
        return max(groups.values(), key=len)  # of equal ones the first

    def told(self, name: str) -> list[tuple[int, dict[str, Any]]]:
        """Return what the story tells of the answer's list of this name, each with its place there.

        That is what is of the reference's model and, where it is of one seed, of its seed, in the plain mode.
        """
        reference = self.answer["reference"]
        return [
            (place, row)
            for place, row in enumerate(self.answer[name])
            if (row["model"], row["mode"]) == (reference["model"], self.plain_mode)
            and (reference["seed"] in row["seeds"] if "seeds" in row else row["seed"] == reference["seed"])
        ]

    @property
    def plain_mode(self) -> str:
        """The mode by which pruning is told: float32 or, in a study without it, the first."""
        modes = [knee["mode"] for knee in self.answer["knees"]]
        return "float32" if "float32" in modes else modes[0] if modes else ""

    @property
    def eager(self) -> dict[str, Any] | None:
        """A row with the time of the reference's network in eager PyTorch."""
        return next(filter(self.is_of_reference, self.files), None)

    @property
    def choices(self) -> dict[str, list[str]]:
        """Column -> its different values, of the columns that have several, by which to filter."""
        values = {name: list(dict.fromkeys(row[name] for row in self.files if row[name])) for name in FILTERS}
        return {name: different for name, different in values.items() if len(different) > 1}

    @property
    def in_openvino(self) -> list[dict[str, Any]]:
        """The rows, of the dense networks and of those that are notable, that were run in OpenVINO."""
        rows = {row["file"]: row for row in [*self.dense, *self.notable] if "openvino" in row}
        return list(rows.values())

    @property
    def settings(self) -> list[dict[str, Any]]:
        """A row for each different machine, number of threads and set of versions that measured something."""
        return list({tuple(row[name] for name in SETTING): row for row in reversed(self.files)}.values())[::-1]

    @property
    def busiest(self) -> dict[str, Any] | None:
        """The row whose timing was disturbed most, None where that is unknown."""
        known = [row for row in self.files if row["machine_busy"]]
        return max(known, key=lambda row: float(row["machine_busy"]), default=None)

    @property
    def refused(self) -> list[dict[str, Any]]:
        """For each model and reason which rows were refused: of each name its different values."""
        groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for row in self.rows:
            if row["refused"]:
                groups.setdefault((row["model"], row["refused"]), []).append(row)
        return [
            {"reason": reason} | {name: ", ".join(dict.fromkeys(row[name] for row in rows)) for name in NAMES}
            for (_, reason), rows in groups.items()
        ]

    @property
    def marks(self) -> list[dict[str, Any]]:
        """What the chart of all files draws: a mark for each."""
        return [
            {name: row[name] for name in ("file", "verdict", *FILTERS)}
            | {name: float(row[name]) for name in CHARTED}
            | {
                "certified": row["file"] in self.passed,
                "answers": [OBJECTIVES[name].column for name in self.chosen.get(row["file"], [])],
            }
            for row in self.files
        ]

    @property
    def curves(self) -> list[dict[str, Any]]:
        """What the chart of pruning draws: every variant that is pruned, also those that share a file."""
        return [
            {name: row[name] for name in FILTERS} | {name: float(row[name]) for name in ("rate", "loss_points")}
            for row in self.rows
            if not row["refused"] and row["scope"] and float(row["rate"])
        ]

    def is_of_reference(self, row: Mapping) -> bool:
        """Return whether a row is of the model and seed of the reference."""
        reference = self.answer["reference"]
        return (row["model"], int(row["seed"])) == (reference["model"], reference["seed"])

    def cell(self, row: Mapping, column: str, written: str = "{}", scale: float = 1) -> Markup:
        """Return a number of summary.csv as HTML; written: how, after it was multiplied by scale. Nothing if empty."""
        place = f"{SUMMARY}#cell={row['row']},{self.columns[column]}"
        return data(place, row[column], written.format(scale * float(row[column]))) if row[column] else Markup("")

    def words(self, row: Mapping, column: str) -> Markup:
        """Return a text of summary.csv as HTML."""
        place = f"{SUMMARY}#cell={row['row']},{self.columns[column]}"
        return Markup('<span data-source="{}">{}</span>').format(place, row[column])

    def text(self, pointer: str) -> Markup:
        """Return a sentence of answer.json as HTML; pointer: as of `value`."""
        return Markup('<span data-source="{}#{}">{}</span>').format(ANSWER, pointer, self._at(pointer))

    def value(self, pointer: str, written: str = "{}", scale: float = 1) -> Markup:
        """Return a number of answer.json as HTML; pointer: of RFC 6901, in which no key has a / or ~."""
        found = self._at(pointer)
        return data(f"{ANSWER}#{pointer}", json.dumps(found), written.format(scale * found))

    def _at(self, pointer: str) -> Any:
        found = self.answer
        for key in pointer.split("/")[1:]:
            found = found[int(key) if isinstance(found, list) else key]
        return found


def data(place: str, value: str, text: str) -> Markup:
    """Return an element that shows a text for a value, and has the value itself and its place."""
    return Markup('<data value="{}" data-source="{}">{}</data>').format(value, place, text)


def read_measured(paths: Iterable[str]) -> list[dict[str, Any]]:
    """Return the rows of <model>/seed<seed>/*.csv with model and seed. Refused files have none.

    Only what is charted is a number: a layer may be called 0, as torch.nn.Sequential names its parts.
    """
    rows: list[dict[str, Any]] = []
    for path in map(pathlib.Path, paths):
        if refusal(path) is not None:
            continue
        with reading(path), path.open(newline="") as file:
            named = {"model": path.parent.parent.name, "seed": path.parent.name.removeprefix("seed")}
            rows += [
                named | {name: float(text or "nan") if name in NUMBERS else text for name, text in row.items()}
                for row in csv.DictReader(file)
            ]
    return rows
