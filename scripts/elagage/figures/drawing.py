"""Styles, panels, labels and legends that all figures share.

Markers, line styles and luminances differ, so that figures can be read in grey; axes start at 0 and accuracies end at
100 %, so that no difference looks larger than it is.
"""

import math
import textwrap
from collections.abc import Iterable

import numpy
import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Okabe and Ito's colours, which colour-blind people can tell apart. Lightness L* of the first four: 0, 71, 58, 46.
COLORS = ("#000000", "#E69F00", "#009E73", "#0072B2", "#CC79A7", "#56B4E9", "#D55E00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", ":", "-.", "--", (0, (6, 1, 1, 1, 1, 1)), (0, (1, 3)), (0, (8, 3)))
FILLS = ("full", "none", "left", "bottom")
# The order of styles and legends; what is not here follows.
ORDER = {
    "mode": ("float32", "dynamic", "dynamic_conv", "static", "qat"),
    "scope": ("global", "local", "channel"),
    "recovery": ("none", "batchnorm", "finetune", "rewind", "iterative"),
}
REFERENCE = {"color": "0.5", "linewidth": 0.9, "zorder": 1.8}  # of what measurements are compared with


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
        return "fp32" if value == "float32" else f"{value} int8"
    return "as pruned" if (column, value) == ("recovery", "none") else value


def side_by_side(count: int, width: float) -> numpy.ndarray:
    """Return `count` offsets around 0, [count], evenly over `width`, so that neighbours do not hide each other."""
    return (numpy.arange(count) - (count - 1) / 2) * width / count


def panels(count: int, columns: int = 3, heights: tuple[float, ...] = (3.2,)) -> tuple[Figure, numpy.ndarray]:
    """Return a figure and `count` stacks of axes of these heights (inches), [count, len(heights)], wrapped."""
    columns = min(count, columns)
    rows = math.ceil(count / columns)
    width = max(7, (3.7 if columns <= 3 else 3) * columns)
    figure = Figure(figsize=(width, rows * sum(heights) + 1.1), layout="constrained")
    axes = figure.subplots(rows * len(heights), columns, squeeze=False, height_ratios=heights * rows)
    axes = axes.reshape(rows, len(heights), columns).swapaxes(1, 2).reshape(-1, len(heights))
    for axis in axes[count:].ravel():
        axis.remove()
    return figure, axes[:count]


def label(axis: Axes, x: str, y: str, *titles: str) -> None:
    """Label an axis, its y where no panel to the left has the same, and write titles above it, in a row if they fit."""
    place, title = axis.get_subplotspec(), ", ".join(titles)
    characters = int(8.7 * min(axis.figure.get_figwidth() / place.get_gridspec().ncols, 3.7))  # 8.7 to an inch
    if len(title) > characters:
        title = "\n".join(textwrap.fill(part, characters) for part in titles)
    axis.set(xlabel=x, ylabel=y if place.is_first_col() else "", title=title)
    axis.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))


def limit(axis: Axes, which: str, ends: tuple[float, float | None]) -> None:
    """Set the ends of axis `which`, x or y; None leaves room for the markers of the highest values."""
    low, high = ends
    if high is None:
        axis.margins(**{which: 0})
        top = getattr(axis, f"get_{which}lim")()[1]
        high = top + 0.1 * (top - low)
    axis.set(**{f"{which}lim": (low, high)})


def legend(figure: Figure, title: str = "") -> None:
    """Write one legend below all panels, with each label once, in one row if that fits."""
    handles = {}
    for axis in figure.axes:
        for handle, text in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(text, handle)
    room = figure.get_figwidth()
    widths = [0.6 + 0.08 * len(text) for text in handles]  # inches, of handle and text
    columns = len(handles) if sum(widths) < room else max(1, int(room / max(widths)))
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
