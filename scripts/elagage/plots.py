"""The figures of a study: a function each, in FIGURES under the name of its file.

Markers, line styles and luminances differ, so that figures can be read in grey; axes start at 0 and accuracies end at
100 %, so that no difference looks larger than it is.
"""

import functools
import math
import textwrap
from typing import NamedTuple

import numpy
import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from elagage.errors import UserError

# Okabe and Ito's colours, which colour-blind people can tell apart. Lightness L* of the first four: 0, 71, 58, 46.
COLORS = ("#000000", "#E69F00", "#009E73", "#0072B2", "#CC79A7", "#56B4E9", "#D55E00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", ":", "-.", "--", (0, (6, 1, 1, 1, 1, 1)), (0, (1, 3)), (0, (8, 3)))
FILLS = ("full", "none", "left", "bottom")
# The order of styles and legends; what is not here follows.
ORDER = {"mode": ("none", "dynamic", "dynamic_conv", "static"), "scope": ("global", "local")}
VARIANT = ["model", "scope", "rate", "recovery", "mode"]


class Study(NamedTuple):
    """What is drawn: summary.csv, and the rows of every history.csv with their model and seed."""

    summary: pandas.DataFrame
    history: pandas.DataFrame

    @property
    def seeds(self) -> int:
        return self.summary["seed"].nunique()


class Metric(NamedTuple):
    """A measurement: the label and ends of its axis, and the columns of summary.csv with its value and interval."""

    label: str
    scale: float  # drawn value = column * scale
    columns: tuple[str, ...]  # value, low, high; the value alone if it has no interval
    limits: tuple[float, float | None] = (0, None)  # None: the data decide


METRICS = {
    # To 103 %, for markers at 100 % to stay whole.
    "accuracy": Metric("test accuracy (%)", 100, ("accuracy", "accuracy_low", "accuracy_high"), (0, 103)),
    "model_size": Metric("model size (kB)", 1e-3, ("model_size_bytes",)),
    "speedup": Metric("speed-up\n(dense fp32 = 1)", 1, ("speedup", "speedup_low", "speedup_high")),
    "relative_time": Metric("time per image (dense fp32 = 1)", 1, ("relative_time",)),
    **{
        name: Metric("inference time per image (ms)", 1, (f"{name}_ms", f"{name}_low_ms", f"{name}_high_ms"))
        for name in ("inference_time", "eager_time")
    },
}


def metric(name: str, summary: pandas.DataFrame) -> Metric:
    """Return METRICS[name], in MB where kB (1,000 B) would need five digits."""
    if name == "model_size" and summary["model_size_bytes"].max() >= 1e7:
        return METRICS[name]._replace(label="model size (MB)", scale=1e-6)
    return METRICS[name]


def estimates(study: Study, measured: Metric) -> pandas.DataFrame:
    """Return a row a variant: VARIANT, value, low and high in the drawn unit.

    With one seed low and high are the ends of the 95 % interval; with several the value is the mean over the seeds,
    low and high are the lowest and the highest.
    """
    value, low, high = measured.columns if study.seeds == 1 and len(measured.columns) == 3 else measured.columns[:1] * 3
    groups = study.summary.groupby(VARIANT, sort=False)
    return (measured.scale * groups.agg(value=(value, "mean"), low=(low, "min"), high=(high, "max"))).reset_index()


def whiskers(study: Study, measured: Metric) -> str | None:
    """Return what the whiskers stand for, as the title of a legend."""
    if study.seeds > 1:
        return f"mean of {study.seeds} seeds, whiskers from the lowest to the highest"
    return "whiskers: 95 % interval" if len(measured.columns) == 3 else None


def style(index: int, label: str, fill: int = 0) -> dict:
    """Return the colour, marker, line and label of the index-th thing in a figure; after seven the fill changes."""
    turn, place = divmod(index, len(COLORS))
    looks = {"color": COLORS[place], "marker": MARKERS[place], "linestyle": LINES[place], "label": label}
    return looks | {"fillstyle": FILLS[(turn + fill) % len(FILLS)]}


def line_styles(table: pandas.DataFrame, column: str) -> dict[tuple[str, str], dict]:
    """Return the style of each (recovery, mode or scope): modes always look the same, recoveries differ in fill."""
    recoveries, present = table["recovery"].unique(), list(table[column].unique())
    styles = {}
    for fill, recovery in enumerate(recoveries):
        for index, value in enumerate(dict.fromkeys([*ORDER[column], *present])):
            if value in present:
                name = mode_name(value) if column == "mode" else value
                text = f"{recovery}, {name}" if len(recoveries) > 1 else name
                styles[recovery, value] = style(index, text, fill)
    return styles


def mode_name(mode: str) -> str:
    """Return a quantization mode as figures call it."""
    return "fp32" if mode == "none" else f"{mode} int8"


def side_by_side(count: int, width: float) -> numpy.ndarray:
    """Return `count` offsets around 0, evenly over `width`, by which neighbours do not hide each other."""
    return (numpy.arange(count) - (count - 1) / 2) * width / count


def panels(count: int, columns: int = 3, heights: tuple[float, ...] = (3.2,)) -> tuple[Figure, numpy.ndarray]:
    """Return a figure and `count` stacks of axes of these heights (inches), [count, len(heights)], wrapped."""
    columns = min(count, columns)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(max(7, 3.7 * columns), rows * sum(heights) + 1.1), layout="constrained")
    axes = figure.subplots(rows * len(heights), columns, squeeze=False, height_ratios=heights * rows)
    axes = axes.reshape(rows, len(heights), columns).swapaxes(1, 2).reshape(-1, len(heights))
    for axis in axes[count:].ravel():
        axis.remove()
    return figure, axes[:count]


def label(axis: Axes, x: str, y: str, model: str = "") -> None:
    """Label an axis, its y only where no panel to the left has the same, and name the model above it."""
    axis.set(xlabel=x, ylabel=y if axis.get_subplotspec().is_first_col() else "", title=textwrap.fill(model, 32))
    axis.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))


def legend(figure: Figure, title: str | None = None) -> None:
    """Write one legend below all panels, with each label once, in one row if that fits."""
    found = {}
    for axis in figure.axes:
        for handle, text in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(text, handle)
    widths = [0.6 + 0.08 * len(text) for text in found]  # inches, of handle and text
    columns = len(found) if sum(widths) < (room := figure.get_figwidth()) else max(1, int(room / max(widths)))
    places = {"loc": "outside lower center", "borderpad": 0.2, "borderaxespad": 0.2}
    figure.legend(found.values(), found.keys(), title=title, ncols=columns, **places)


def reach(rows: pandas.DataFrame) -> numpy.ndarray | None:
    """Return the lengths of the whiskers below and above, as errorbar wants them, or None if all are 0.

    Rounding can put a mean of equal numbers a hair below their minimum, and errorbar refuses negative lengths.
    """
    lengths = numpy.clip([rows["value"] - rows["low"], rows["high"] - rows["value"]], 0, None)
    return lengths if lengths.any() else None


def against_rate(study: Study, measures: tuple[Metric, ...], column: str, x: str) -> Figure:
    """Return a stack of panels per model: metrics against the rate, a line for each recovery and value of `column`."""
    styles, models = line_styles(study.summary, column), study.summary["model"].unique()
    rates = 100 * numpy.unique(study.summary["rate"])
    gap = min([10, *numpy.diff(rates)])  # points shifted by more would read as other rates
    margin = 0.04 * (rates[-1] - rates[0]) + 0.2 * gap
    figure, stacks = panels(len(models), heights=(3.2, 1.5)[: len(measures)])
    for place, measured in enumerate(measures):
        table = estimates(study, measured).sort_values("rate", kind="stable")
        for axis, model in zip(stacks[:, place], models, strict=True):
            rows = table[table["model"] == model]
            for (key, looks), shift in zip(styles.items(), side_by_side(len(styles), 0.24 * gap), strict=True):
                line = rows[(rows["recovery"] == key[0]) & (rows[column] == key[1])]
                axis.errorbar(100 * line["rate"] + shift, line["value"], reach(line), capsize=2, **looks)
            dense_reference(axis, study, measured, model)
            last = place == len(measures) - 1
            label(axis, x if last else "", measured.label, "" if place else model)
            axis.margins(y=0.1)  # room for the markers of the highest values
            axis.set(xlim=(rates[0] - margin, rates[-1] + margin), ylim=measured.limits)
    legend(figure, whiskers(study, measures[0]))
    return figure


def dense_reference(axis: Axes, study: Study, measured: Metric, model: str) -> None:
    """Draw the dense float32 model in grey: its accuracy, or its time as measured beside the variants of each rate.

    That time changes with the machine, not with the rate: what the variants share with it is no effect of pruning.
    """
    rows = study.summary[study.summary["model"] == model]
    looks = {"color": "0.5", "linewidth": 0.9, "zorder": 1.8}
    if measured.columns[0] == "accuracy":
        dense = rows.loc[(rows["rate"] == 0) & (rows["mode"] == "none"), "accuracy"]
        if len(dense):
            axis.axhline(measured.scale * dense.mean(), label="dense fp32", **looks)
    elif measured.columns[0] == "inference_time_ms":
        times = rows.groupby("rate")["dense_time_ms"].mean()
        axis.plot(100 * times.index, times, label="dense fp32, timed beside", **looks)


def pruning(study: Study, scope: str, name: str) -> Figure:
    """A metric against the rate of one scope, a line for each recovery and mode."""
    rows = study.summary[study.summary["scope"] == scope]
    if rows.empty:
        raise UserError(f"pruning.scopes: {scope} is not among them, so there is no {scope} pruning to draw; add it")
    measures = (metric(name, study.summary), *([METRICS["speedup"]] if name == "inference_time" else []))
    return against_rate(study._replace(summary=rows), measures, "mode", f"{scope} pruning rate (%)")


def local_global_accuracy(study: Study) -> Figure:
    """Accuracy of both scopes against the rate, in fp32 if the study has that, else in its first mode."""
    mode = "none" if "none" in set(study.summary["mode"]) else study.summary["mode"].iloc[0]
    measured = METRICS["accuracy"]._replace(label=f"{mode_name(mode)} test accuracy (%)")
    rows = study.summary[study.summary["mode"] == mode]
    return against_rate(study._replace(summary=rows), (measured,), "scope", "pruning rate (%)")


def digits(value: float) -> str:
    """Return a number with three significant digits, and all those before the decimal point: 0.0123, 1.27, 1,156."""
    decimals = 2 - math.floor(math.log10(value)) if value > 0 else 0
    return f"{value:,.{max(0, decimals)}f}"


def points(axis: Axes, rows: pandas.DataFrame, middle: float, looks: dict) -> None:
    """Draw a point a row at the height `place`, with whiskers and, on the side of the `middle`, its value."""
    axis.errorbar(rows["value"], rows["place"], xerr=reach(rows), capsize=2.5, **looks | {"linestyle": "none"})
    for row in rows.itertuples():
        end, side = (row.high, "left") if row.value < middle else (row.low, "right")
        text = {"xytext": (7 if side == "left" else -7, 0), "textcoords": "offset points", "fontsize": 9}
        axis.annotate(digits(row.value), (end, row.place), ha=side, va="center_baseline", **text)


def quantization_comparison(study: Study) -> Figure:
    """Accuracy, size and time of every mode at the lowest rate, a row each; PyTorch's eager mode among the times."""
    summary = study.summary[study.summary["rate"] == study.summary["rate"].min()]
    summary = summary[summary["scope"] == summary["scope"].iloc[0]]
    lowest, models, styles = study._replace(summary=summary), summary["model"].unique(), line_styles(summary, "mode")
    names = [*(looks["label"] for looks in styles.values()), "PyTorch eager fp32"]
    figure = Figure(figsize=(9, 1.6 + len(names) * max(0.45, 0.22 * len(models))), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    for axis, name in zip(axes, ("accuracy", "model_size", "inference_time"), strict=True):
        measured = metric(name, summary)
        table = estimates(lowest, measured)
        table["place"] = [list(styles).index(key) for key in zip(table["recovery"], table["mode"], strict=True)]
        if name == "inference_time":
            eager = estimates(lowest, METRICS["eager_time"]).drop_duplicates("model")
            table = pandas.concat([table, eager.assign(place=len(styles))])
        middle = (measured.limits[1] or table["value"].max()) / 2
        for index, (model, shift) in enumerate(zip(models, side_by_side(len(models), 0.8), strict=True)):
            rows = table[table["model"] == model]
            points(axis, rows.assign(place=rows["place"] + shift), middle, style(index, model))
        axis.set(xlabel=measured.label, xlim=measured.limits)
        axis.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    axes[0].set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
    rate, scope = summary[["rate", "scope"]].iloc[0]
    figure.suptitle(f"Quantization {f'after {100 * rate:g} % {scope} pruning' if rate else 'of the dense model'}")
    legend(figure, whiskers(study, METRICS["accuracy"]))
    return figure


def epochs(rows: pandas.DataFrame, loss: Axes, accuracy: Axes, rate: Axes, width: float) -> None:
    """Draw the epochs of one training into three axes."""
    line = {"linewidth": width, "marker": "." if len(rows) == 1 else None}
    best = rows[rows["best"]]
    for axis, name, factor in ((loss, "loss", 1), (accuracy, "accuracy", 100)):
        axis.plot(rows["epoch"], factor * rows[f"train_{name}"], "--", color=COLORS[1], label="training", **line)
        axis.plot(rows["epoch"], factor * rows[f"validation_{name}"], color=COLORS[3], label="validation", **line)
        axis.plot(best["epoch"], factor * best[f"validation_{name}"], "*k", markersize=9, label="best epoch, kept")
    rate.plot(rows["epoch"], rows["learning_rate"], color="0.35", **line)


def training_history(study: Study) -> Figure:
    """Loss, accuracy and learning rate of every epoch, a stack of panels per model, a thin line per seed."""
    if study.history.empty:
        figure = Figure(figsize=(7, 1.5))
        figure.text(0.5, 0.5, "No model of this study was trained: all came with their weights.", ha="center")
        return figure
    models = study.history["model"].unique()
    figure, stacks = panels(len(models), heights=(1.7, 1.7, 0.8))
    for axes, model in zip(stacks, models, strict=True):
        for _, rows in study.history[study.history["model"] == model].groupby("seed"):
            epochs(rows, *axes, width=0.8 if study.seeds > 1 else 1.5)
        texts = (("", "loss (nats)", model), ("", "accuracy (%)"), ("epoch", "learning rate"))
        for axis, text, top in zip(axes, texts, (None, 103, None), strict=True):
            label(axis, *text)
            axis.set(xlim=(0.5, study.history["epoch"].max() + 0.5), ylim=(0, top))
            axis.xaxis.get_major_locator().set_params(integer=True)
    legend(figure)
    return figure


def not_dominated(cost: numpy.ndarray, gain: numpy.ndarray) -> list[bool]:
    """Return for each point whether no other costs as little and gains as much, and is better in one of the two."""
    return [not ((cost <= c) & (gain >= g) & ((cost < c) | (gain > g))).any() for c, g in zip(cost, gain, strict=True)]


def pareto(study: Study) -> Figure:
    """Accuracy against size and against time, two panels per model, a line for each recovery, mode and scope."""
    # Not in ms: absolute times of variants measured at different moments differ by more than most variants do.
    study = study._replace(summary=study.summary.assign(relative_time=1 / study.summary["speedup"]))
    table = estimates(study, METRICS["accuracy"])
    styles, scopes, models = line_styles(table, "mode"), sorted(table["scope"].unique()), table["model"].unique()
    figure, axes = panels(2 * len(models), columns=2)
    for index, axis in enumerate(axes[:, 0]):
        cost = metric(("model_size", "relative_time")[index % 2], study.summary)
        rows = table.assign(cost=estimates(study, cost)["value"])
        rows = rows[rows["model"] == models[index // 2]].sort_values("rate", kind="stable")
        for (recovery, mode, scope), line in rows.groupby(["recovery", "mode", "scope"], sort=False):
            looks, thread = styles[recovery, mode], {"linestyle": LINES[3 * scopes.index(scope)], "linewidth": 0.8}
            axis.plot(line["cost"], line["value"], color=looks["color"], **thread)
            axis.plot(line["cost"], line["value"], **looks | {"linestyle": "none"})
        best = rows[not_dominated(rows["cost"].to_numpy(), rows["value"].to_numpy())]
        for place, scope in enumerate(scopes if len(scopes) > 1 else []):  # for the legend alone
            axis.plot([], [], color="0.4", linestyle=LINES[3 * place], linewidth=0.8, label=scope)
        axis.plot(best["cost"], best["value"], "ok", fillstyle="none", markersize=11, label="not dominated")
        label(axis, cost.label, METRICS["accuracy"].label, models[index // 2])
        axis.margins(x=0.1)  # room for the circles of the largest
        axis.set(xlim=cost.limits, ylim=METRICS["accuracy"].limits)
    legend(figure, f"mean of {study.seeds} seeds" if study.seeds > 1 else None)
    return figure


FIGURES = {
    f"{scope}_pruning_{name}": functools.partial(pruning, scope=scope, name=name)
    for scope in ("local", "global")
    for name in ("accuracy", "model_size", "inference_time")
} | {figure.__name__: figure for figure in (local_global_accuracy, quantization_comparison, training_history, pareto)}
