"""Write the page of a study: the answer, its charts and its tables, in one HTML file that needs no network."""

import os
import pathlib
from collections.abc import Iterable, Mapping

from elagage.files import read_json, refusal, whole_file
from elagage.int8_harm import calibration_in_words, mixed_in_words
from elagage.job import job
from elagage.page.page import page
from elagage.page.tables import Study, read_measured


def report_page(
    summary: str | os.PathLike,
    answer: str | os.PathLike,
    *,
    histories: Iterable[str],
    sensitivities: Iterable[str],
    int8_sensitivities: Iterable[str],
    choices: Iterable[str],
    lost_images: str | os.PathLike,
    elsewhere: str | os.PathLike | None,
    configuration: Mapping,
    output: str | os.PathLike,
) -> None:
    """Write the page. summary, answer: summary.csv and answer.json; histories, sensitivities, int8_sensitivities:
    <model>/seed<seed>/*.csv; choices: calibration.json and mixed.json of models and seeds; lost_images: what the rule
    of this name wrote; elsewhere: what read_elsewhere wrote, None if the study has no table of another machine.

    Raises UserError if a file is damaged.
    """
    study = Study(summary, answer)
    text = page(
        study,
        history=read_measured(histories),
        sensitivities=read_measured(sensitivities),
        int8_sensitivities=read_measured(int8_sensitivities),
        of_int8=said_of_int8(study, choices),
        lost=read_json(lost_images),
        elsewhere=read_json(elsewhere) if elsewhere else [],
        configuration=configuration,
    )
    with whole_file(output) as temporary:
        temporary.write_text(text, encoding="utf-8")


def said_of_int8(study: Study, choices: Iterable[str]) -> dict[str, str]:
    """Return the sentences about the reference's model and seed, by the file, below `results`, that they are of."""
    reference = study.answer["reference"]
    folder = f"models/{reference['model']}/seed{reference['seed']}"
    words = {"calibration.json": calibration_in_words, "mixed.json": mixed_in_words}
    return {
        f"{folder}/{path.name}": words[path.name](read_json(path))
        for path in map(pathlib.Path, choices)
        if path.as_posix().endswith(f"{folder}/{path.name}") and refusal(path) is None
    }


if "snakemake" in globals():
    with job(snakemake.log[0]):
        inputs = snakemake.input
        report_page(
            inputs.summary,
            inputs.answer,
            histories=inputs.histories,
            sensitivities=inputs.sensitivities,
            int8_sensitivities=inputs.int8_sensitivities,
            choices=[*inputs.calibrations, *inputs.mixtures],
            lost_images=inputs.lost_images,
            elsewhere=inputs.get("elsewhere") or None,
            configuration=snakemake.params.configuration,
            output=snakemake.output[0],
        )
