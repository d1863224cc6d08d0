"""Figures of a measurement against the rate of pruning: by mode, by scope, by recovery."""

import itertools

import numpy
import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from elagage.errors import UserError
from elagage.figures.drawing import (
    LABEL_GAP,
    REFERENCE,
    digits,
    error_bars,
    label,
    legend,
    line_styles,
    loss_axis,
    name_lines,
    ordered,
    panels,
    side_by_side,
    start_at_zero,
    value_name,
)
from elagage.figures.study import METRICS, Metric, Study, dense_accuracy, disturbance, estimates, metric, whiskers

THIN = {"linewidth": 1, "marker": None}  # lines behind the strong ones of the same colour
NAMED_COLUMNS = 2  # of panels, between which labels of lines have room


def against_rate(study: Study, metrics: dict[str, Metric], lines: str, split: str, x: str) -> Figure:
    """Return a panel for each model and value of the column `split`, with a line for each value of the column `lines`.

    The first of the metrics has strong lines, others have thin ones; their keys follow the names of the lines.
    """
    summary = study.summary
    models, parts = summary["model"].unique(), ordered(split, summary[split])
    styles = line_styles(lines, summary[lines])
    rates = 100 * numpy.unique(summary["rate"])
    gap = min([10, *numpy.diff(rates)])  # points shifted by more would read as other rates
    offsets = side_by_side(len(styles), 0.24 * gap)
    margin = 0.04 * (rates[-1] - rates[0]) + 0.2 * gap
    columns = len(parts) if len(models) > 1 and len(parts) > 1 else 3  # a row of panels per model
    few = (len(styles) * len(metrics) + 1) * LABEL_GAP < 1  # one more is what MACs let expect
    named = few and min(columns, len(models) * len(parts)) <= NAMED_COLUMNS
    figure, axes = panels(len(models) * len(parts), columns, width=5.2 if named else 3.7 if columns <= 3 else 3)
    tables = {name: estimates(study, measured) for name, measured in metrics.items()}
    *_, measured = metrics.values()
    for axis, (model, part) in zip(axes[:, 0], itertools.product(models, parts), strict=True):
        for thin, (name, table) in enumerate(tables.items()):
            rows = table[(table["model"] == model) & (table[split] == part)].sort_values("rate", kind="stable")
            for (value, properties), offset in zip(styles.items(), offsets, strict=True):
                line = rows[rows[lines] == value]
                drawn = properties | (THIN if thin else {}) | {"label": f"{properties['label']}{name}"}
                axis.errorbar(100 * line["rate"] + offset, line["value"], error_bars(line), capsize=2, **drawn)
        rows = summary[(summary["model"] == model) & (summary[split] == part)]
        titles = [model, value_name(split, part)] if len(parts) > 1 else [model]
        axis.set_xlim(rates[0] - margin, rates[-1] + margin)
        titles += draw_dense(axis, rows, measured, table, study.answer["maximum_accuracy_loss"])
        label(axis, x, measured.label, *titles)
        if named:
            name_lines(axis)
    times = disturbance(study) if measured == METRICS["speedup"] else ""
    notes = whiskers(study, measured), times
    legend(figure, "; ".join(filter(None, notes)))
    return figure


def draw_dense(
    axis: Axes, rows: pandas.DataFrame, measured: Metric, table: pandas.DataFrame, margin: float
) -> list[str]:
    """Set the ends of y, draw what is measured against, the dense float32 model, and return its value in words.

    rows: of the summary in this panel; table: the estimates of all panels.
    """
    if measured.columns == METRICS["dense_loss"].columns:
        loss_axis(axis, "y", table, margin)
        return [f"dense float32: {digits(dense_accuracy(rows))} %"] if len(rows) else []
    start_at_zero(axis, "y")
    if measured != METRICS["speedup"]:
        return []
    axis.axhline(1, **REFERENCE)
    draw_expected(axis, rows)
    # The mean over all jobs, as the page has it: between the jobs of a busy machine it differs by half.
    return [f"dense float32: {digits((rows['time_ms'] * rows['speedup']).median())} ms"] if len(rows) else []


def draw_expected(axis: Axes, rows: pandas.DataFrame) -> None:
    """Draw, where channels are removed, the speed-up of float32 if nothing but multiply-accumulates (MACs) took time.

    To be called when the axis has its limits: at high rates the line leaves the panel.
    """
    macs = rows.groupby("rate")["macs"].mean()
    if macs.nunique() > 1 and 0 in macs.index:  # zeroed weights are multiplied as before
        properties = REFERENCE | {"linestyle": "--", "label": "float32, if only MACs took time"}
        axis.plot(100 * macs.index, macs[0] / macs, **properties)


def pruning(study: Study, scope: str, name: str) -> Figure:
    """A metric against the rate of one scope, a line for each mode, panels for each model and recovery."""
    rows = study.summary[study.summary["scope"] == scope]
    if rows.empty:
        raise UserError(f"pruning.scopes: {scope} is not among them, so there is no {scope} pruning to draw; add it")
    metrics = {"": METRICS["speedup" if name == "inference_time" else "dense_loss"]}
    if name == "model_size":
        metrics = {", packed": metric("packed_size", study.summary), ", ONNX file": metric(name, study.summary)}
    return against_rate(study._replace(summary=rows), metrics, "mode", "recovery", f"{scope} pruning rate (%)")


def accuracy_by(study: Study, lines: str, split: str) -> Figure:
    """Accuracy lost against the rate, in float32 if the study has that, else in its first mode."""
    mode = "float32" if "float32" in set(study.summary["mode"]) else study.summary["mode"].iloc[0]
    measured = METRICS["dense_loss"]
    measured = measured._replace(label=f"{measured.label}, {value_name('mode', mode)}")
    rows = study.summary[study.summary["mode"] == mode]
    return against_rate(study._replace(summary=rows), {"": measured}, lines, split, "pruning rate (%)")


def scopes_accuracy(study: Study) -> Figure:
    """Accuracy lost with all scopes against the rate, panels for each model and recovery."""
    return accuracy_by(study, "scope", "recovery")


def recovery_comparison(study: Study) -> Figure:
    """Accuracy lost with all recoveries against the rate, panels for each model and scope."""
    return accuracy_by(study, "recovery", "scope")
