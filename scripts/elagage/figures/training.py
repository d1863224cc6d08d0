"""The figure of how the dense models were trained."""

import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from elagage.figures.drawing import COLORS, label, legend, panels
from elagage.figures.study import Study


def draw_epochs(rows: pandas.DataFrame, column: str, factor: float, axis: Axes, properties: dict) -> None:
    """Draw the mean of a column over the seeds against the epoch and, behind it, a band from lowest to highest."""
    seeds = factor * rows.groupby("epoch")[column].agg(["mean", "min", "max"])
    properties = {"marker": "." if len(seeds) == 1 else None} | properties
    axis.plot(seeds.index, seeds["mean"], **properties)
    if rows["seed"].nunique() > 1:
        axis.fill_between(seeds.index, seeds["min"], seeds["max"], color=properties["color"], alpha=0.25, linewidth=0)


def training_history(study: Study) -> Figure:
    """Loss, accuracy and learning rate of every epoch, a stack of panels per model."""
    if study.history.empty:
        figure = Figure(figsize=(7, 1.5))
        figure.text(0.5, 0.5, "No model of this study was trained: all came with their weights.", ha="center")
        return figure
    models = study.history["model"].unique()
    figure, stacks = panels(len(models), heights=(1.7, 1.7, 0.8))
    for (loss, accuracy, rate), model in zip(stacks, models, strict=True):
        rows = study.history[study.history["model"] == model]
        best = rows[rows["best"]]
        for axis, name, factor in ((loss, "loss", 1), (accuracy, "accuracy", 100)):
            dashed = {"linestyle": "--", "color": COLORS[1], "label": "training"}
            draw_epochs(rows, f"train_{name}", factor, axis, dashed)
            draw_epochs(rows, f"validation_{name}", factor, axis, {"color": COLORS[3], "label": "validation"})
            axis.plot(best["epoch"], factor * best[f"validation_{name}"], "*k", markersize=9, label="best epoch, kept")
        draw_epochs(rows, "learning_rate", 1, rate, {"color": "0.35"})
        texts = (("", "loss (nats)", model), ("", "accuracy (%)"), ("epoch", "learning rate"))
        for axis, text, top in zip((loss, accuracy, rate), texts, (None, 103, None), strict=True):
            label(axis, *text)
            axis.set(xlim=(0.5, study.history["epoch"].max() + 0.5), ylim=(0, top))
            axis.xaxis.get_major_locator().set_params(integer=True)
    count = study.history["seed"].nunique()
    legend(figure, f"mean of {count} seeds, bands from the lowest to the highest" if count > 1 else "")
    return figure
