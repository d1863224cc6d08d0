"""The figure of what quantization does without pruning."""

import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from elagage.figures.drawing import digits, error_bars, legend, ordered, side_by_side, style, value_name
from elagage.figures.study import METRICS, Study, disturbance, estimates, metric, simplest_recovery, whiskers


def draw_points(axis: Axes, rows: pandas.DataFrame, middle: float, properties: dict) -> None:
    """Draw one point per row at the height `place`, with whiskers and, towards the `middle`, its value."""
    axis.errorbar(rows["value"], rows["place"], xerr=error_bars(rows), capsize=2.5, **properties | {"linestyle": ""})
    for row in rows.itertuples():
        end, side = (row.high, "left") if row.value < middle else (row.low, "right")
        text = {"xytext": (7 if side == "left" else -7, 0), "textcoords": "offset points", "fontsize": 9}
        axis.annotate(digits(row.value), (end, row.place), ha=side, va="center_baseline", **text)


def lowest_rate(summary: pandas.DataFrame) -> pandas.DataFrame:
    """Return the rows of the lowest rate, of one scope; of the simplest recovery if that rate is 0, the dense model."""
    rows = summary[summary["rate"] == summary["rate"].min()]
    rows = rows[rows["scope"] == rows["scope"].iloc[0]]
    return rows if rows["rate"].iloc[0] else simplest_recovery(rows)


def quantization_comparison(study: Study) -> Figure:
    """Accuracy, sizes and time of every mode at the lowest rate, a row each; PyTorch's eager mode among the times."""
    summary = lowest_rate(study.summary)
    lowest, models, recoveries = (
        study._replace(summary=summary),
        summary["model"].unique(),
        summary["recovery"].unique(),
    )
    keys = [(recovery, mode) for recovery in recoveries for mode in ordered("mode", summary["mode"])]
    names = [value_name("mode", mode) for _, mode in keys]
    if len(recoveries) > 1:
        names = [f"{value_name('recovery', recovery)}, {name}" for (recovery, _), name in zip(keys, names, strict=True)]
    names.append(f"PyTorch eager fp32{', dense' if summary['rate'].iloc[0] else ''}")
    columns = ["accuracy", "model_size", *(["packed_size"] if "packed_size_bytes" in summary else []), "inference_time"]
    height = 1.6 + len(names) * max(0.45, 0.22 * len(models))
    figure = Figure(figsize=(3 * len(columns), height), layout="constrained")
    axes = figure.subplots(1, len(columns), sharey=True)
    for axis, name in zip(axes, columns, strict=True):
        measured = metric(name, summary)
        table = estimates(lowest, measured)
        table["place"] = [keys.index(key) for key in zip(table["recovery"], table["mode"], strict=True)]
        if name == "inference_time":
            eager = estimates(lowest, METRICS["eager_time"]).drop_duplicates("model")
            table = pandas.concat([table, eager.assign(place=len(keys))])
        middle = (measured.limits[1] or table["value"].max()) / 2
        for index, (model, shift) in enumerate(zip(models, side_by_side(len(models), 0.8), strict=True)):
            rows = table[table["model"] == model]
            draw_points(axis, rows.assign(place=rows["place"] + shift), middle, style(index, model))
        axis.set(xlabel=measured.label, xlim=measured.limits)
        axis.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    if "packed_size" in columns:  # two sizes of a file are compared on equal axes
        axes[2].set_xlim(axes[1].get_xlim())
    axes[0].set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
    rate, scope = summary[["rate", "scope"]].iloc[0]
    figure.suptitle(f"Quantization {f'after {100 * rate:g} % {scope} pruning' if rate else 'of the dense model'}")
    legend(figure, "; ".join(filter(None, (whiskers(study, METRICS["accuracy"]), disturbance(lowest)))))
    return figure
