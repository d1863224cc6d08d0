"""Draw the figures of a study from its summary, its training histories and the sensitivity of its layers."""

import io
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import matplotlib.style
import pandas
from matplotlib.figure import Figure

from elagage.errors import UserError
from elagage.figures.drawing import note_below
from elagage.figures.registry import FIGURES
from elagage.figures.study import Study, refused_note
from elagage.files import reading, refusal, whole_file
from elagage.job import job

TEXT_COLUMNS = ("model", "scope", "recovery", "mode", "refused")
STYLE = {  # of every figure, on top of matplotlib's defaults
    "savefig.dpi": 150,
    "axes.titlesize": 10.5,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "0.88",
    "legend.frameon": False,
    "lines.markersize": 5,
    "text.parse_math": False,  # a layer may be called $x$
}


def read_tables(paths: Iterable[str | os.PathLike]) -> pandas.DataFrame:
    """Read <model>/seed<seed>/*.csv as one table, with the columns model and seed; it is empty without any."""
    tables = []
    for path in map(pathlib.Path, paths):
        if refusal(path) is not None:
            continue
        with reading(path):
            name, seed = path.parent.parent.name, int(path.parent.name.removeprefix("seed"))
            tables.append(pandas.read_csv(path).assign(model=name, seed=seed))
    return pandas.concat(tables, ignore_index=True) if tables else pandas.DataFrame()


def read_study(
    summary: str | os.PathLike,
    histories: Iterable[str | os.PathLike],
    sensitivities: Iterable[str | os.PathLike],
    answer: Mapping[str, Any],
    int8_sensitivities: Iterable[str | os.PathLike] = (),
) -> Study:
    """Read summary.csv, and of each model and seed the other tables; answer: of the configuration.

    Names are read as text, or pandas would take a model called `NA` or `007` for a missing value or a number.
    """
    with reading(summary):
        table = pandas.read_csv(summary, dtype=dict.fromkeys(TEXT_COLUMNS, str), keep_default_na=False, na_values=[""])
    table = table[table["scope"].notna()]  # what no variant is has no place on a curve
    measured = table["refused"].isna()
    history, sensitivity, int8_sensitivity = map(read_tables, (histories, sensitivities, int8_sensitivities))
    return Study(table[measured], history, sensitivity, answer, table[~measured], int8_sensitivity)


def plot(study: Study, outputs: Iterable[str | os.PathLike]) -> None:
    """Write each of the files `outputs`, whose stems are names in FIGURES.

    The same study gives the same bytes: neither a user's matplotlibrc nor matplotlib's version enters the file.
    Raises UserError for a name that no figure has, and for a figure that the study has no data for.
    """
    for output in map(pathlib.Path, outputs):
        if output.stem not in FIGURES:
            raise UserError(f"{output}: there is no figure {output.stem!r}. Figures: {', '.join(FIGURES)}")
        drawn = io.BytesIO()
        with matplotlib.style.context(["default", STYLE]):
            draw(output.stem, study).savefig(drawn, format=output.suffix[1:], metadata={"Software": None})
        with whole_file(output) as temporary:
            temporary.write_bytes(drawn.getbuffer())
        print(f"drew {output}")


def draw(name: str, study: Study) -> Figure:
    """Return the figure; of a study with refused variants it says below what is not in it.

    Where these are all that it would show, it has nothing but that.
    """
    if study.refused.empty:
        return FIGURES[name](study)
    try:
        if study.summary.empty:
            raise UserError("nothing could be measured")
        figure = FIGURES[name](study)
    except UserError:
        figure = Figure(figsize=(7, 1), layout="constrained")
        figure.text(0.5, 0.5, "nothing to show", color="0.4", ha="center")
    note_below(figure, refused_note(study))
    return figure


if "snakemake" in globals():
    with job(snakemake.log[0]):
        inputs = snakemake.input
        tables = inputs.histories, inputs.sensitivities
        study = read_study(inputs.summary, *tables, snakemake.params.answer, inputs.int8_sensitivities)
        plot(study, snakemake.output)
