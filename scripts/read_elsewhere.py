"""Join what other machines took for files of the study: tables of time_elsewhere.py."""

import csv
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import numpy

from elagage.files import reading, sha256, write_json
from elagage.job import job
from elagage.statistics import loads_interval
from elagage.timing import LOADS

SETTING = ("machine", "cpu", "instruction_set", "onnxruntime", "threads")
COUNTS = ("images", "compared", "different")


def read_elsewhere(tables: Iterable[str], files: Sequence[str], output: str) -> None:
    """Write a row for each file of each table (JSON).

    files: the ONNX files of the study, as they are now. A row has `table`; SETTING; `file`, and `current`: whether that
    is the file of the study, and not one that it had before; COUNTS; and `time_ms` and `speedup`, against the dense
    float32 file there, each as mean, low and high over the loads. Raises UserError for a table that is none.
    """
    checksums = {file: sha256(file) for file in files}
    found = []
    for table in tables:
        with reading(table), pathlib.Path(table).open(newline="", encoding="utf-8") as file:
            loads: dict[str, list[dict]] = {}
            for row in csv.DictReader(file, strict=True):
                loads.setdefault(row["file"], []).append(row)
            if not loads:
                raise ValueError("it has no rows")
            for name, rows in loads.items():
                _check(name, rows)
                joined = {"table": table, **{key: rows[0][key] for key in SETTING}, "file": name}
                joined["current"] = checksums.get(name) == rows[0]["sha256"]
                joined |= {key: int(rows[0][key]) for key in COUNTS}
                for key in ("time_ms", "speedup"):
                    joined[key] = loads_interval(numpy.array([float(row[key]) for row in rows]))
                found.append(joined)
    write_json(output, found)


def _check(file: str, rows: Sequence[Mapping]) -> None:
    """Raise ValueError if the rows of a file are not those of one whole run."""
    if any(None in row.values() for row in rows):
        raise ValueError(f"a row of {file} is cut")
    for key in (*SETTING, *COUNTS, "sha256"):
        if len({row[key] for row in rows}) > 1:
            raise ValueError(f"rows of {file} differ in {key}: keep those of one run")
    if sorted(int(row["load"]) for row in rows) != [*range(LOADS)]:
        raise ValueError(f"{file} has not one row for each of {LOADS} loads: the table is cut, or has a run twice")
    if not all(0 < float(row[key]) < math.inf for row in rows for key in ("time_ms", "speedup")):
        raise ValueError(f"{file} has a time that is not above 0, or infinite")


if "snakemake" in globals():
    with job(snakemake.log[0]):
        read_elsewhere(snakemake.input.tables, snakemake.input.onnx_files, snakemake.output.json)
