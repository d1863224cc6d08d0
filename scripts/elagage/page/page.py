"""Join the template, the style, the behaviour and the charts of the page in one HTML file."""

import base64
import pathlib
from collections.abc import Mapping
from typing import Any

import jinja2
import vl_convert
import yaml

from elagage.int8_harm import in_words, joined_layers
from elagage.objectives import OBJECTIVES
from elagage.page.charts import COSTS, pruning, sensitivity, sensitivity_int8, trade_off, training
from elagage.page.tables import FILTERS, Study
from elagage.sentences import objectives_by_file
from elagage.version import VERSION

FOLDER = pathlib.Path(__file__).parent


def page(
    study: Study,
    *,
    history: list[dict],
    sensitivities: list[dict],
    int8_sensitivities: list[dict],
    of_int8: Mapping[str, str],
    lost: Mapping,
    elsewhere: list[dict],
    configuration: Mapping,
) -> str:
    """Return the page as HTML.

    history, sensitivities, int8_sensitivities: rows of these tables, with model and seed, or none; of_int8: sentences,
    by the file that they are of; lost: what the rule lost_images wrote; elsewhere: what read_elsewhere wrote.
    """
    model = study.answer["reference"]["model"]
    int8 = joined_layers([row for row in int8_sensitivities if row["model"] == model])
    # All names are the user's. StrictUndefined: a column that is missing stops, rather than leaves a gap.
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        study=study,
        answered=objectives_by_file(study.answer),
        lost=lost,
        elsewhere=elsewhere,
        charts=charts(study, history, sensitivities) | {"sensitivity_int8": sensitivity_int8(int8) if int8 else None},
        of_int8=of_int8,
        int8_harm=in_words(int8) if int8 else "",
        costs=COSTS,
        objectives=OBJECTIVES,
        filters=FILTERS,
        dataset=configuration["dataset"]["name"],
        models=list(configuration["models"]),
        configuration=yaml.safe_dump(dict(configuration), sort_keys=False, allow_unicode=True),
        csv=base64.b64encode(study.csv.encode()).decode(),
        version=VERSION,
        style=(FOLDER / "page.css").read_text(encoding="utf-8"),
        behaviour=(FOLDER / "page.js").read_text(encoding="utf-8"),
        library=vl_convert.javascript_bundle(),
    )


def charts(study: Study, history: list[dict], sensitivities: list[dict]) -> dict[str, Any]:
    """Return the charts by name, None for one that the study has no data for. The smaller ones are of one model."""
    model, margin = study.answer["reference"]["model"], study.answer["margin_points"]
    pruned = [row for row in study.curves if row["model"] == model and row["mode"] == study.plain_mode]
    of_model = [[row for row in rows if row["model"] == model] for rows in (sensitivities, history)]
    return {
        "trade_off": trade_off(margin, list(study.choices)),
        "pruning": pruning(margin, pruned) if pruned else None,
        "sensitivity": sensitivity(of_model[0]) if of_model[0] else None,
        "training": training(of_model[1]) if of_model[1] else None,
    }
