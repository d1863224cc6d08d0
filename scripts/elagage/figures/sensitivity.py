"""The figure of which layers tolerate pruning, and of what global pruning takes from them."""

import math
import textwrap

import numpy
import pandas
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from elagage.errors import UserError
from elagage.figures.study import Study

ROW_HEIGHT = 0.19  # inches per layer: room for text of 7 points
MAX_NUMBERED = 12  # rates up to which cells have room for numbers
NAME_LENGTH = 40  # characters; the end of a layer's name says more than its beginning
CRITICAL_VALUE = 1.96  # at 95 %, in standard deviations of the rank correlation of n unrelated layers, 1 / sqrt(n - 1)


def tables(rows: pandas.DataFrame) -> tuple[pandas.DataFrame, pandas.DataFrame]:
    """Return the accuracy lost, in percentage points, and the share in % that global pruning takes, of one model.

    Both have a row per layer, in the layers' order, and a column per rate; they are means over the seeds.
    """
    rows = rows.assign(lost=100 * (rows["dense_correct"] - rows["correct"]) / rows["images"])
    wide = rows.assign(taken=100 * rows["global_share"]).pivot_table(["lost", "taken"], "layer", "rate")
    wide = wide.reindex(rows["layer"].unique())
    return wide["lost"], wide["taken"]


def explanation(lost: pandas.DataFrame, taken: pandas.DataFrame) -> str:
    """Return in words whether global pruning spares the layers that lose most.

    Spearman's rank correlation is Pearson's of the ranks; of constant or single values there is none, and no words.
    """
    order = round(lost.mean(axis=1).rank().corr(taken.mean(axis=1).rank()), 2)
    if math.isnan(order):
        return ""
    sign = "spares" if order < 0 else "takes most from"
    clear = abs(order) >= CRITICAL_VALUE / math.sqrt(len(lost) - 1)
    words = f"global pruning {sign} the layers that lose most" if clear else f"no clear order in {len(lost)} layers"
    return f"Rank correlation between a layer's loss and what is taken from it: {order:.2f}, {words}."


def draw_heatmap(axis: Axes, table: pandas.DataFrame, top: float, colors: str, title: str) -> None:
    """Draw a table as colours, pale at 0 and dark at `top`, with its numbers in the cells if they fit."""
    picture = axis.imshow(table, cmap=colors, vmin=0, vmax=top, aspect="auto", interpolation="nearest")
    axis.figure.colorbar(picture, ax=axis, aspect=40, pad=0.01).ax.tick_params(labelsize=7)
    step = math.ceil(table.shape[1] / MAX_NUMBERED)
    axis.set_xticks(range(0, table.shape[1], step), [f"{100 * rate:g}" for rate in table.columns[::step]], fontsize=8)
    names = [name.removesuffix(".weight") for name in table.index]
    names = [name if len(name) <= NAME_LENGTH else f"…{name[1 - NAME_LENGTH :]}" for name in names]
    axis.set_yticks(range(len(names)), names, fontsize=7)
    axis.set(xlabel="pruning rate (%)")
    axis.set_title(title, fontsize=9)
    axis.grid(visible=False)
    axis.tick_params(length=0)
    for (row, column), value in numpy.ndenumerate(table.to_numpy() if step == 1 else numpy.empty((0, 0))):
        red, green, blue, _ = colormaps[colors](numpy.clip(value / top, 0, 1))
        shade = "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"
        number = f"{value:.1f}" if abs(value) < 9.95 else f"{value:.0f}"
        number = "0" if number in ("0.0", "-0.0") else number
        axis.text(column, row, number, ha="center", va="center", fontsize=6.5, color=shade)


def sensitivity(study: Study) -> Figure:
    """Accuracy lost when only one layer is pruned and what global pruning takes from it, a row per model."""
    if study.sensitivity.empty:
        raise UserError("sensitivity.images is 0 or no rate is above 0, so there is no sensitivity to draw; change it")
    models = study.sensitivity["model"].unique()
    parts = [tables(study.sensitivity[study.sensitivity["model"] == model]) for model in models]
    top = max(1, *(lost.max(axis=None) for lost, _ in parts))  # one scale, so that models can be compared
    rates = max(lost.shape[1] for lost, _ in parts)
    width = max(9, 2.5 + 2 * (0.36 * min(rates, MAX_NUMBERED) + 0.6))
    heights = [max(1.2, ROW_HEIGHT * len(lost)) + 1.5 for lost, _ in parts]
    figure = Figure(figsize=(width, sum(heights)), layout="constrained")
    rows = figure.subfigures(len(models), 1, height_ratios=heights, squeeze=False)[:, 0]
    for model, (lost, taken), row in zip(models, parts, rows, strict=True):
        left, right = row.subplots(1, 2, sharey=True)
        draw_heatmap(left, lost, top, "magma_r", "accuracy lost when only this layer is pruned\n(percentage points)")
        draw_heatmap(
            right, taken, 100, "cividis_r", "what global pruning takes at this rate\n(% of the layer's weights)"
        )
        of_model = study.sensitivity[study.sensitivity["model"] == model]
        seeds = of_model["seed"].nunique()
        title = f"{model}, {of_model['images'].iloc[0]} validation images"
        title += f", mean of {seeds} seeds" if seeds > 1 else ""
        row.suptitle(textwrap.fill(title, int(8.7 * width)), fontsize=10.5)
        row.supxlabel(textwrap.fill(explanation(lost, taken), int(14 * width)), fontsize=8.5)
    return figure
