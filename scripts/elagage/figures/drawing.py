"""Styles, panels, labels and legends that all figures share.

Markers, line styles and luminances differ, so that figures can be read in grey. Axes of costs start at 0, so that no
difference looks larger than it is. Axes of losses are linear up to the margin and logarithmic beyond: a study has
losses of 0.1 and of 80 points, and the first are those that matter.
"""

import math
import textwrap
from collections.abc import Iterable

import numpy
import pandas
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from elagage.axes import loss_ticks
from elagage.modes import LARGEST_LEVEL

# Okabe and Ito's colours, which colour-blind people can tell apart. Lightness L* of the first four: 0, 71, 58, 46.
COLORS = ("#000000", "#E69F00", "#009E73", "#0072B2", "#CC79A7", "#56B4E9", "#D55E00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", ":", "-.", "--", (0, (6, 1, 1, 1, 1, 1)), (0, (1, 3)), (0, (8, 3)))
FILLS = ("full", "none", "left", "bottom")
# The order of styles and legends; what is not here follows.
ORDER = {
    "mode": ("float32", "dynamic", "dynamic_conv", "static", "mixed", "static4", "static3", "qat"),
    "scope": ("global", "local", "channel"),
    "recovery": ("none", "batchnorm", "reconstruct", "finetune", "rewind", "iterative"),
}
REFERENCE = {"color": "0.5", "linewidth": 0.9, "zorder": 1.8}  # of what measurements are compared with
LABEL_GAP = 0.075  # of the height of a panel, between labels below each other


def ordered(column: str, values: Iterable[str]) -> list[str]:
    """Return the different values in the order of ORDER, others last."""
    present = list(dict.fromkeys(values))
    return [value for value in dict.fromkeys([*ORDER[column], *present]) if value in present]


def style(index: int, label: str) -> dict:
    """Return the colour, marker, line and label of item `index` of a figure; after seven the fill changes."""
    fill, place = divmod(index, len(COLORS))
    properties = {"color": COLORS[place], "marker": MARKERS[place], "linestyle": LINES[place], "label": label}
    return properties | {"fillstyle": FILLS[fill % len(FILLS)]}


def line_styles(column: str, values: Iterable[str]) -> dict[str, dict]:
    """Return the style of each mode, scope or recovery, in their order; it is the same in every study."""
    present = ordered(column, values)
    places = list(dict.fromkeys([*ORDER[column], *present]))
    return {value: style(places.index(value), value_name(column, value)) for value in present}


def value_name(column: str, value: str) -> str:
    """Return a mode, scope or recovery as figures call it."""
    if column == "mode":
        return value if value in ("float32", *LARGEST_LEVEL) else f"{value} int8"
    return "as pruned" if (column, value) == ("recovery", "none") else value


def side_by_side(count: int, width: float) -> numpy.ndarray:
    """Return `count` offsets around 0, [count], evenly over `width`, so that neighbours do not hide each other."""
    return (numpy.arange(count) - (count - 1) / 2) * width / count


def panels(
    count: int, columns: int = 3, heights: tuple[float, ...] = (3.2,), width: float = 3.7
) -> tuple[Figure, numpy.ndarray]:
    """Return a figure and `count` stacks of axes of this size (inches), [count, len(heights)], wrapped."""
    columns = min(count, columns)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(max(7, width * columns), rows * sum(heights) + 1.1), layout="constrained")
    axes = figure.subplots(rows * len(heights), columns, squeeze=False, height_ratios=heights * rows)
    axes = axes.reshape(rows, len(heights), columns).swapaxes(1, 2).reshape(-1, len(heights))
    for axis in axes[count:].ravel():
        axis.remove()
    return figure, axes[:count]


def label(axis: Axes, x: str, y: str, *titles: str) -> None:
    """Label an axis, its y where no panel to the left has the same, and write titles above it, in rows that fit."""
    place, rows = axis.get_subplotspec(), list(titles[:1])
    characters = int(8.7 * min(axis.figure.get_figwidth() / place.get_gridspec().ncols, 3.7))  # 8.7 to an inch
    for title in titles[1:]:
        longer = f"{rows[-1]}, {title}"
        rows = [*rows[:-1], longer] if len(longer) <= characters else [*rows, title]
    title = "\n".join(textwrap.fill(row, characters) for row in rows)
    axis.set(xlabel=x, ylabel=y if place.is_first_col() else "", title=title)
    axis.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))


def start_at_zero(axis: Axes, which: str) -> None:
    """Let axis `which`, x or y, start at 0, and leave room for the markers of the highest values."""
    axis.margins(**{which: 0})
    axis.set(**{f"{which}lim": (0, 1.1 * getattr(axis, f"get_{which}lim")()[1])})


def loss_axis(axis: Axes, which: str, losses: pandas.DataFrame, margin: float) -> None:
    """Make axis `which`, x or y, one of losses in points, with the margin dashed and what is within it as a band.

    losses: all that the figure has, with the columns low and high, so that its panels have the same axis.
    """
    low, high = 1.2 * min(losses["low"].min(), -margin / 2), 1.2 * max(losses["high"].max(), 2 * margin)
    getattr(axis, f"set_{which}scale")("symlog", linthresh=margin)
    ticks = [tick for tick in loss_ticks(margin) if low <= tick <= high]
    named = "margin {:g}" if which == "y" else "{:g}\nmargin"
    names = [(named if tick == margin else "{:g}").format(tick) for tick in ticks]
    axis.set(**{f"{which}ticks": ticks, f"{which}ticklabels": names, f"{which}lim": (low, high)})
    line, band = (axis.axhline, axis.axhspan) if which == "y" else (axis.axvline, axis.axvspan)
    band(low, margin, color="#f1f5f9", zorder=0)
    line(0, **REFERENCE)
    line(margin, color="0.2", linewidth=1, linestyle=(0, (6, 4)), zorder=1.9)


def on_panel(axis: Axes, x: ArrayLike, y: ArrayLike) -> numpy.ndarray:
    """Return where points, x and y [n], lie on a panel whose limits are set, as shares of its sides, [n, 2]."""
    return (axis.transScale + axis.transLimits).transform(numpy.column_stack([x, y]).astype(float))


def spread(places: ArrayLike, gap: float) -> numpy.ndarray:
    """Return places, [n], moved as little as keeps neighbours `gap` apart, in their order, and labels from 0 to 1.

    That is isotonic regression of what the gaps leave, by its min-max formula (Robertson et al. 1988, section 1.4).
    """
    order = numpy.argsort(places, kind="stable")
    taken = gap * numpy.arange(len(order))
    wanted, ends = numpy.asarray(places)[order] - taken, range(1, len(order) + 1)
    fitted = [max(min(wanted[i:k].mean() for k in ends[j:]) for i in range(j + 1)) for j in range(len(order))]
    moved = numpy.empty(len(order))
    moved[order] = numpy.clip(fitted, gap / 2, 1 - gap / 2 - taken.max(initial=0)) + taken
    return moved


def name_lines(axis: Axes) -> None:
    """Write the labels of lines at their right ends, each with a sample of its line, instead of in a legend.

    To be called when the axis has its limits.
    """
    handles, texts = axis.get_legend_handles_labels()
    lines = [handle.lines[0] if isinstance(handle, ErrorbarContainer) else handle for handle in handles]
    named = [item for item in zip(handles, lines, texts, strict=True) if len(item[1].get_xdata())]
    ends = [on_panel(axis, line.get_xdata()[-1:], line.get_ydata()[-1:])[0, 1] for _, line, _ in named]
    depths = spread(1 - numpy.array(ends), LABEL_GAP)  # from above, so that the first of equal ones is on top
    for (_, line, text), depth in zip(named, depths, strict=True):
        sample = Line2D([1.02, 1.06, 1.1], [1 - depth] * 3)
        sample.update_from(line)
        sample.set(transform=axis.transAxes, clip_on=False, clip_box=None, markevery=[1], label="_")
        axis.add_artist(sample)
        axis.text(1.12, 1 - depth, text, transform=axis.transAxes, va="center_baseline", fontsize=9)
    for handle in handles:
        handle.set_label("_")


def legend(figure: Figure, title: str = "") -> None:
    """Write one legend below all panels, with each label once, in one row if that fits; maybe it has only a title."""
    handles = {}
    for axis in figure.axes:
        for handle, text in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(text, handle)
    if not handles and not title:
        return
    room = figure.get_figwidth()
    widths = [0.6 + 0.08 * len(text) for text in handles]  # inches, of handle and text
    columns = max(1, len(handles)) if sum(widths) < room else max(1, int(room / max(widths)))
    places = {"loc": "outside lower center", "borderpad": 0.2, "borderaxespad": 0.2}
    figure.legend(
        handles.values(), handles.keys(), title=textwrap.fill(title, int(12 * room)) or None, ncols=columns, **places
    )


def error_bars(rows: pandas.DataFrame) -> numpy.ndarray | None:
    """Return the lengths of the whiskers below and above, as errorbar wants them, or None if all are 0.

    Rounding can put a mean of equal numbers a hair below their minimum, and errorbar refuses negative lengths.
    """
    lengths = numpy.clip([rows["value"] - rows["low"], rows["high"] - rows["value"]], 0, None)
    return lengths if lengths.any() else None


def digits(value: float) -> str:
    """Return a number with three significant digits, and all those before the decimal point: 0.0123, 1.27, 1,156."""
    decimals = 2 - math.floor(math.log10(value)) if value > 0 else 0
    return f"{value:,.{max(0, decimals)}f}"


def note_below(figure: Figure, text: str) -> None:
    """Write a note below the panels: above the legend or, without one, at the end of the figure, which grows for it."""
    width, height = figure.get_size_inches()
    note = textwrap.fill(text, int(12 * width))
    strip = 0.2 * (note.count("\n") + 1)  # inches
    figure.set_size_inches(width, height + strip)
    if figure.legends:
        title = figure.legends[0].get_title().get_text()
        figure.legends[0].set_title("\n".join(filter(None, (note, title))))
        return
    share = strip / (height + strip)
    figure.get_layout_engine().set(rect=(0, share, 1, 1 - share))
    figure.text(0.5, share, note, ha="center", va="top", in_layout=False)
