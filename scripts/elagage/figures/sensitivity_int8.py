"""The figure of which layers int8 harms."""

import math
import textwrap

import pandas
from matplotlib.figure import Figure

from elagage.errors import UserError
from elagage.figures.sensitivity import NAME_LENGTH, ROW_HEIGHT
from elagage.figures.study import Study
from elagage.int8_harm import MILLI, SHOWN, in_words, joined_layers

ALONE, WITHOUT = "only this layer in int8", "only this layer in float32; dashed: none"


def sensitivity_int8(study: Study) -> Figure:
    """How far the class probabilities are from float32 with one layer in int8, or in float32, a row per model."""
    if study.int8_sensitivity.empty:
        raise UserError("sensitivity.images is 0 or no mode is static or mixed, so there is nothing to draw; change it")
    models = study.int8_sensitivity["model"].unique()
    layers = [
        joined_layers(study.int8_sensitivity[study.int8_sensitivity["model"] == model].to_dict("records"))
        for model in models
    ]
    heights = [max(1.2, ROW_HEIGHT * min(SHOWN, len(rows))) + 1.5 for rows in layers]
    figure = Figure(figsize=(9, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(models), 1, height_ratios=heights, squeeze=False)[:, 0]
    for model, rows, part in zip(models, layers, parts, strict=True):
        table = pandas.DataFrame(rows)
        shown = table[table["alone_divergence"].rank(ascending=False, method="first") <= SHOWN]
        axes = part.subplots(1, 2, sharey=True)
        for axis, column, title in zip(axes, ("alone_divergence", "without_divergence"), (ALONE, WITHOUT), strict=True):
            axis.barh(range(len(shown)), MILLI * shown[column], color="#0072B2", height=0.7)
            axis.set_title(title, fontsize=9)
            axis.set(xlabel="divergence from float32 (thousandths of a nat)")
            axis.grid(visible=False, axis="y")
            axis.set_axisbelow(True)
            axis.locator_params(axis="x", nbins=5)
        axes[1].axvline(MILLI * table["all_divergence"].iloc[0], color="0.3", linestyle="--", linewidth=1)
        names = [name.removesuffix(".weight") for name in shown["layer"]]
        names = [name if len(name) <= NAME_LENGTH else f"…{name[1 - NAME_LENGTH :]}" for name in names]
        axes[0].set_yticks(range(len(names)), names, fontsize=7)
        axes[0].invert_yaxis()
        title = f"{model}, {math.floor(table['images'].iloc[0])} validation images"
        title += f"; the {SHOWN} of {len(table)} layers that are most harmful" if len(table) > SHOWN else ""
        part.suptitle(textwrap.fill(title, 78), fontsize=10.5)
        part.supxlabel(textwrap.fill(in_words(rows), 126), fontsize=8.5)
    return figure
