"""The figure of what accuracy costs."""

import pathlib

import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from elagage.certification import cheapest
from elagage.figures.drawing import (
    LABEL_GAP,
    digits,
    error_bars,
    label,
    legend,
    line_styles,
    loss_axis,
    on_panel,
    ordered,
    panels,
    spread,
    start_at_zero,
    value_name,
)
from elagage.figures.study import METRICS, Study, dense_accuracy, disturbance, estimates, metric, whiskers

SCOPE_LINES = ("-", "--", ":")
WHISKERS = 60  # points of a panel up to which intervals can be told apart
NAMED = 10  # points of a panel that have room for names


def front(points: pandas.DataFrame) -> list:
    """Return the labels of the points that lose clearly less than all cheaper ones, the cheapest first.

    points: value, low and high of the loss, and the same of the cost, `cost_...`. The first is the cheapest or, of
    those whose costs are the same, the one that loses least; the next is likewise chosen from those whose interval lies
    below that loss, and so on.
    """
    chosen, left = [], points
    while len(left):
        costs = left[["cost_low", "cost_value", "cost_high"]].to_numpy().T
        best = left.iloc[cheapest(*costs, -left["value"].to_numpy())]
        chosen.append(best.name)
        # Not itself: the mean of equal numbers may lie above all of them, by rounding.
        left = left[(left["high"] < best["value"]) & (left.index != best.name)]
    return chosen


def name_points(axis: Axes, rows: pandas.DataFrame) -> None:
    """Write beside points, towards the middle of a panel that has its limits, which variants they are."""
    places = on_panel(axis, rows["cost_value"], rows["value"])
    heights = spread(places[:, 1], LABEL_GAP)
    for row, (along, _), height in zip(rows.itertuples(), places, heights, strict=True):
        pruned = f"{row.scope} {100 * row.rate:g} %" if row.rate else "dense"
        axis.annotate(
            f"{pruned}, {value_name('mode', row.mode)}",
            (row.cost_value, row.value),
            (along + (0.04 if along < 0.5 else -0.04), height),
            textcoords="axes fraction",
            ha="left" if along < 0.5 else "right",
            va="center",
            fontsize=8,
            path_effects=[withStroke(linewidth=3, foreground="white")],
            zorder=4,
        )


def pareto(study: Study) -> Figure:
    """Accuracy lost against size and against time, two panels for each model and recovery, a line for a mode and scope.

    With several recoveries the front is still that of all variants of the model: one recovery can beat another.
    """
    summary, margin = study.summary, study.answer["maximum_accuracy_loss"]
    # The file as stored has the same size at every rate: zeros take their bytes.
    costs = [metric(name, summary) for name in ("packed_size", "time")]
    losses = estimates(study, METRICS["loss"])
    models, recoveries = summary["model"].unique(), ordered("recovery", summary["recovery"])
    scopes, styles = ordered("scope", summary["scope"]), line_styles("mode", summary["mode"])
    scope_lines = dict(zip(scopes, SCOPE_LINES, strict=False))
    panel_keys = [(recovery, model, cost) for recovery in recoveries for model in models for cost in costs]
    columns = 2 if len(panel_keys) <= 4 else 4
    figure, axes = panels(len(panel_keys), columns, width=5.2 if columns == 2 else 4.2)
    for axis, (recovery, model, cost) in zip(axes[:, 0], panel_keys, strict=True):
        table = estimates(study, cost)
        points = losses.join(table[["value", "low", "high"]].add_prefix("cost_"))
        points = points[points["model"] == model].sort_values("rate", kind="stable")
        best = points.loc[front(points)]
        points, best = points[points["recovery"] == recovery], best[best["recovery"] == recovery]
        for (mode, scope), line in points.groupby(["mode", "scope"], sort=False):
            color = styles[mode]["color"]
            axis.plot(line["cost_value"], line["value"], color=color, ls=scope_lines[scope], linewidth=0.8)
            axis.plot(line["cost_value"], line["value"], **styles[mode] | {"linestyle": "none"})
            if len(points) <= WHISKERS:
                bars = error_bars(line), error_bars(table.loc[line.index])
                faint = {"linestyle": "none", "color": color, "alpha": 0.4, "linewidth": 0.8}
                axis.errorbar(line["cost_value"], line["value"], *bars, **faint)
        for scope in scopes if len(scopes) > 1 else []:  # only for the legend
            axis.plot([], [], color="0.4", linestyle=scope_lines[scope], linewidth=0.8, label=scope)
        ring = {"fillstyle": "none", "markersize": 11, "label": "loses clearly less than all cheaper"}
        axis.plot(best["cost_value"], best["value"], "ok", **ring)
        titles = [model, value_name("recovery", recovery)] if len(recoveries) > 1 else [model]
        label(axis, cost.label, METRICS["loss"].label, *titles)
        start_at_zero(axis, "x")
        loss_axis(axis, "y", losses, margin)
        name_points(axis, best.tail(NAMED))
    reference = "/".join(pathlib.PurePath(summary["reference"].iloc[0]).parts[-3:])
    against = f"losses against {reference} ({digits(dense_accuracy(summary, 'loss'))} %)"
    notes = against, whiskers(study, METRICS["loss"], METRICS["time"]), disturbance(study)
    legend(figure, "; ".join(filter(None, notes)))
    return figure
