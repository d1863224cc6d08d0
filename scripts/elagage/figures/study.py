"""What figures show: the tables of a study, and estimates from them with their spread."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pandas

from elagage.axes import LOST
from elagage.figures.drawing import digits, ordered
from elagage.timing import BUSY

VARIANT_COLUMNS = ["model", "scope", "rate", "recovery", "mode"]


class Study(NamedTuple):
    """What is drawn: summary.csv, and the rows of all other tables with their model and seed.

    history: of history.csv; sensitivity, int8_sensitivity: of sensitivity.csv and sensitivity_int8.csv; answer: the
    table of the configuration. The rows of summary.csv that have a reason in `refused` instead of measurements are
    apart.
    """

    summary: pandas.DataFrame
    history: pandas.DataFrame
    sensitivity: pandas.DataFrame
    answer: Mapping[str, Any]
    refused: pandas.DataFrame = pandas.DataFrame()
    int8_sensitivity: pandas.DataFrame = pandas.DataFrame()


class Metric(NamedTuple):
    """A measurement: the label of its axis, the columns of summary.csv with its value and interval, and their words."""

    label: str
    scale: float  # drawn value = column * scale
    columns: tuple[str, ...]  # value, low, high; only the value if it has no interval
    interval: str = ""  # what the columns low and high are; {confidence}: that of the answer, in percent
    written: Callable[[float], str] = digits


BOUNDS = "bounds of the loss, each with {confidence:g} % confidence"
LOADS = "95 % interval of the time over loads of the file"
METRICS = {
    # Against the reference of the answer, or the dense float32 file of the same model and seed.
    **{
        name: Metric(LOST, 1, (f"{name}_points", f"{name}_low", f"{name}_high"), BOUNDS, "{:.2f}".format)
        for name in ("loss", "dense_loss")
    },
    "model_size": Metric("model size (kB)", 1e-3, ("model_size_bytes",)),
    "packed_size": Metric("packed size (kB)", 1e-3, ("packed_size_bytes",)),
    "speedup": Metric("speed-up (dense float32 = 1)", 1, ("speedup", "speedup_low", "speedup_high"), LOADS),
    **{
        name: Metric("time per image (ms)", 1, (f"{name}_ms", f"{name}_low_ms", f"{name}_high_ms"), LOADS)
        for name in ("time", "eager_time")
    },
}


def metric(name: str, summary: pandas.DataFrame) -> Metric:
    """Return METRICS[name], sizes in MB where the largest file would need five digits in kB (1,000 B)."""
    chosen = METRICS[name]
    if name.endswith("_size") and summary["model_size_bytes"].max() >= 1e7:
        return chosen._replace(label=chosen.label.replace("(kB)", "(MB)"), scale=1e-6)
    return chosen


def dense_accuracy(rows: pandas.DataFrame, loss: str = "dense_loss") -> float:
    """Return the accuracy, in %, against which rows have a loss; of several seeds it is the mean."""
    compared = 100 * rows["accuracy"] + rows[f"{loss}_points"]
    return float(compared.groupby(rows["seed"]).first().mean())


def simplest_recovery(dense: pandas.DataFrame) -> pandas.DataFrame:
    """Return the rows of one recovery, which trains only if all do: at rate 0 that is the dense model itself."""
    return dense[dense["recovery"] == ordered("recovery", dense["recovery"])[0]]


def seeds(summary: pandas.DataFrame) -> pandas.Series:
    """Return how many seeds each model has: a model that came with its weights has one, others may have several."""
    return summary.groupby("model", sort=False)["seed"].nunique()


def estimates(study: Study, measured: Metric) -> pandas.DataFrame:
    """Return one row per variant: VARIANT_COLUMNS, value, low and high in the drawn unit.

    For a model with one seed low and high are the ends of the 95 % interval; for one with several the value is the mean
    over the seeds, low and high are the lowest and the highest.
    """
    summary = study.summary
    value, low, high = measured.columns if len(measured.columns) == 3 else measured.columns * 3
    one = summary["model"].map(seeds(summary)) == 1
    ends = summary.assign(low=summary[low].where(one, summary[value]), high=summary[high].where(one, summary[value]))
    groups = ends.groupby(VARIANT_COLUMNS, sort=False)
    return (measured.scale * groups.agg(value=(value, "mean"), low=("low", "min"), high=("high", "max"))).reset_index()


def whiskers(study: Study, *measured: Metric) -> str:
    """Return what the whiskers of each model stand for in a figure of these measurements, as the title of a legend."""
    counts = seeds(study.summary)
    one, parts = list(counts.index[counts == 1]), []
    if counts.max() > 1:
        parts.append(f"mean of {counts.max()} seeds, whiskers from the lowest to the highest")
    intervals = [text for text in dict.fromkeys(metric.interval for metric in measured) if text]
    if one and intervals:
        words = ", and ".join(intervals).format(confidence=100 * study.answer["confidence"])
        parts.append((f"one seed of {', '.join(one)}, " if parts else "") + f"whiskers: {words}")
    return "; ".join(parts)


def disturbance(study: Study) -> str:
    """Return in words by how much other programs disturbed the timings, nothing if they did not or it is unknown."""
    highest = study.summary["machine_busy"].max()
    return f"timed while other programs took up to {100 * highest:.0f} % of the CPU time" if highest > BUSY else ""


def refused_note(study: Study) -> str:
    """Return in words which variants have no measurements: of each model the scopes, recoveries and modes."""
    rows, parts = pandas.concat([study.summary, study.refused]), []
    rates, everything = (
        rows.loc[rows["rate"] > 0, "rate"].nunique(),
        rows["recovery"].nunique() * rows["mode"].nunique(),
    )
    for (model, scope), refused in study.refused.groupby(["model", "scope"], sort=False):
        some = sorted(refused["rate"].unique())
        at = "" if len(some) >= rates else f" at {', '.join(f'{100 * rate:g}' for rate in some)} %"
        cells = refused[["recovery", "mode"]].drop_duplicates()
        if len(cells) == everything:
            parts.append(f"{model}, {scope}{at}")
            continue
        for recovery, modes in cells.groupby("recovery", sort=False)["mode"]:
            named = "" if len(modes) == rows["mode"].nunique() else f", {'/'.join(modes)}"
            parts.append(f"{model}, {scope}{at}, {recovery}{named}")
    return f"Refused, so not shown (summary.md says why): {'; '.join(parts)}."
