"""The figure of what quantization does without pruning."""

import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from elagage.figures.drawing import (
    digits,
    error_bars,
    legend,
    loss_axis,
    on_panel,
    ordered,
    side_by_side,
    start_at_zero,
    style,
    value_name,
)
from elagage.figures.study import (
    METRICS,
    Metric,
    Study,
    dense_accuracy,
    disturbance,
    estimates,
    metric,
    simplest_recovery,
    whiskers,
)


def write_values(axis: Axes, rows: pandas.DataFrame, measured: Metric) -> None:
    """Write the value of each row at its whisker, towards the middle of a panel that has its limits."""
    for row, (along, _) in zip(rows.itertuples(), on_panel(axis, rows["value"], rows["place"]), strict=True):
        end, side = (row.high, "left") if along < 0.5 else (row.low, "right")
        text = {"xytext": (7 if side == "left" else -7, 0), "textcoords": "offset points", "fontsize": 9}
        axis.annotate(measured.written(row.value), (end, row.place), ha=side, va="center_baseline", **text)


def lowest_rate(summary: pandas.DataFrame) -> pandas.DataFrame:
    """Return the rows of the lowest rate, of one scope; of the simplest recovery if that rate is 0, the dense model."""
    rows = summary[summary["rate"] == summary["rate"].min()]
    rows = rows[rows["scope"] == rows["scope"].iloc[0]]
    return rows if rows["rate"].iloc[0] else simplest_recovery(rows)


def quantization_comparison(study: Study) -> Figure:
    """Accuracy lost, sizes and time of every mode at the lowest rate, a row each; PyTorch's eager mode among times."""
    summary = lowest_rate(study.summary)
    lowest, models = study._replace(summary=summary), summary["model"].unique()
    recoveries = summary["recovery"].unique()
    keys = [(recovery, mode) for recovery in recoveries for mode in ordered("mode", summary["mode"])]
    names = [value_name("mode", mode) for _, mode in keys]
    if len(recoveries) > 1:
        names = [f"{value_name('recovery', recovery)}, {name}" for (recovery, _), name in zip(keys, names, strict=True)]
    names.append(f"PyTorch eager float32{', dense' if summary['rate'].iloc[0] else ''}")
    columns = ("dense_loss", "model_size", "packed_size", "time")
    figure = Figure(figsize=(12, 1.6 + len(names) * max(0.45, 0.22 * len(models))), layout="constrained")
    axes = figure.subplots(1, len(columns), sharey=True)
    for axis, name in zip(axes, columns, strict=True):
        measured = metric(name, summary)
        table = estimates(lowest, measured)
        table["place"] = [keys.index(key) for key in zip(table["recovery"], table["mode"], strict=True)]
        if name == "time":
            eager = estimates(lowest, METRICS["eager_time"]).drop_duplicates("model")
            table = pandas.concat([table, eager.assign(place=len(keys))])
        table["place"] += table["model"].map(dict(zip(models, side_by_side(len(models), 0.8), strict=True)))
        for index, model in enumerate(models):
            rows = table[table["model"] == model]
            title = f"{model}, dense float32: {digits(dense_accuracy(summary[summary['model'] == model]))} %"
            looks = style(index, title) | {"linestyle": ""}
            axis.errorbar(rows["value"], rows["place"], xerr=error_bars(rows), capsize=2.5, **looks)
        axis.set(xlabel=measured.label, ylim=(len(names) - 0.5, -0.5))
        if name == "dense_loss":
            loss_axis(axis, "x", table, study.answer["maximum_accuracy_loss"])
        else:
            start_at_zero(axis, "x")
            axis.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
        if name == "packed_size":  # two sizes of a file are compared on equal axes
            axis.set_xlim(axes[1].get_xlim())
        write_values(axis, table, measured)
    figure.align_xlabels(axes)
    axes[0].set(yticks=range(len(names)), yticklabels=names)
    rate, scope = summary[["rate", "scope"]].iloc[0]
    figure.suptitle(f"Quantization {f'after {100 * rate:g} % {scope} pruning' if rate else 'of the dense model'}")
    notes = whiskers(study, METRICS["dense_loss"], METRICS["time"]), disturbance(lowest)
    legend(figure, "; ".join(filter(None, notes)))
    return figure
