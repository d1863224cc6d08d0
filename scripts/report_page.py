"""Write the page of a study: the answer, its charts and its tables, in one HTML file that needs no network."""

import os
from collections.abc import Iterable, Mapping

from elagage.files import read_json, whole_file
from elagage.job import job
from elagage.page.page import page
from elagage.page.tables import Study, read_measured


def report_page(
    summary: str | os.PathLike,
    answer: str | os.PathLike,
    histories: Iterable[str],
    sensitivities: Iterable[str],
    int8_sensitivities: Iterable[str],
    lost_images: str | os.PathLike,
    elsewhere: str | os.PathLike | None,
    configuration: Mapping,
    output: str | os.PathLike,
) -> None:
    """Write the page. summary, answer: summary.csv and answer.json; histories, sensitivities, int8_sensitivities:
    <model>/seed<seed>/*.csv; lost_images: what the rule of this name wrote; elsewhere: what read_elsewhere
    wrote, None if the study has no table of another machine.

    Raises UserError if a file is damaged.
    """
    measured = map(read_measured, (histories, sensitivities, int8_sensitivities))
    text = page(
        Study(summary, answer),
        *measured,
        read_json(lost_images),
        read_json(elsewhere) if elsewhere else [],
        configuration,
    )
    with whole_file(output) as temporary:
        temporary.write_text(text, encoding="utf-8")


if "snakemake" in globals():
    with job(snakemake.log[0]):
        inputs = snakemake.input
        report_page(
            inputs.summary,
            inputs.answer,
            inputs.histories,
            inputs.sensitivities,
            inputs.int8_sensitivities,
            inputs.lost_images,
            inputs.get("elsewhere") or None,
            snakemake.params.configuration,
            snakemake.output[0],
        )
