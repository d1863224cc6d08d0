"""What a study says of its methods: how far pruning goes, what recoveries gain beyond training alone, local and global.

The images of several seeds are never pooled: what is said of one seed is said of its files; with SEEDS or more, the
seeds are what is sampled (Student 1908).
"""

from collections.abc import Iterable, Mapping

import numpy
import pandas
import scipy.stats

from elagage.statistics import adjusted, p_of_accuracies

SEEDS = 3  # from which on the mean over seeds is told
SCOPES = ("local", "global")  # compared at equal rates, at which they keep as many weights
CURVE = ["model", "seed", "scope", "recovery", "mode"]
BOUNDS = ("low", "high")


def knees(variants: list[Mapping], losses: pandas.DataFrame, margin: float, loss: str = "loss") -> list[dict]:
    """Return for each curve up to which rate all files are within the margin, and from which on all are beyond it.

    Both are fixed sequences: from the lowest rate upwards, and from the highest downwards, each file at the level of
    its bound, until one does not pass, or was refused. None where not even the first one passes. loss: which one, as
    the columns are called; curves without it are left out.
    """
    low, high = (f"{loss}_{bound}" for bound in BOUNDS)
    table = pandas.DataFrame(variants).join(losses[[low, high]], on="file")
    found = []
    for names, curve in table[table["rate"] > 0].sort_values("rate").groupby(CURVE, sort=False):
        if curve[high].notna().any():
            within, beyond = curve[high] < margin, curve[low] > margin
            found.append(dict(zip(CURVE, names, strict=True)) | knee(curve["rate"], within, beyond))
    return found


def knee(rates: pandas.Series, within: pandas.Series, beyond: pandas.Series) -> dict[str, float | None]:
    """Return the two ends of what is shown of a curve; all are [n], by rate, and bool but for the rates."""
    up_to, beyond_from = rates[within.cummin()], rates[beyond[::-1].cummin()[::-1]]
    return {
        "within_up_to": None if up_to.empty else float(up_to.max()),
        "beyond_from": None if beyond_from.empty else float(beyond_from.min()),
    }


def recoveries(
    files: Iterable[Mapping], variants: list[Mapping], losses: pandas.DataFrame, margin: float
) -> list[dict]:
    """Return the knees of recoveries that train against their controls, and what the control gained by itself.

    files: of Plan.files. A control is the dense network that was trained as much longer. `longer` is of the highest
    rate's control, in float32 whatever the mode: its loss against its own dense network, negative if training on has
    gained accuracy.
    """
    controls = {row["file"]: row["control"] for row in files if row["control"]}
    found = []
    for curve in knees(variants, losses, margin, "control_loss"):
        last = max(
            (row for row in variants if row["rate"] and all(row[name] == curve[name] for name in CURVE)),
            key=lambda row: row["rate"],
        )
        control = controls[last["file"]].removesuffix(f"-{last['mode']}.onnx") + "-float32.onnx"
        if control in losses.index:
            bounds = {name: float(losses.loc[control, f"dense_loss_{name}"]) for name in ("points", *BOUNDS)}
            found.append(curve | {"longer": {"file": control} | bounds})
    return found


def scopes(variants: list[Mapping], correct: Mapping[str, numpy.ndarray]) -> list[dict]:
    """Return how many points fewer `global` loses than `local` at each rate, by model, recovery and mode.

    correct: file -> bool [n], on the same test images; refused files are not there. Of fewer than SEEDS seeds each is
    told by itself, by McNemar's exact test (1947) of the two files; else the mean difference of the seeds, by
    Student's. The p-values are Holm's (1979) over the rates. `fewer` is the scope that loses less at 5 %, or None.
    """
    pairs: dict[tuple, dict[float, list]] = {}
    named = {tuple(row[name] for name in (*CURVE, "rate")): row["file"] for row in variants if row["rate"]}
    for (model, seed, scope, recovery, mode, rate), file in named.items():
        other = named.get((model, seed, SCOPES[1], recovery, mode, rate))
        if scope == SCOPES[0] and file in correct and other in correct:
            rates = pairs.setdefault((model, recovery, mode), {})
            rates.setdefault(rate, []).append((seed, correct[file], correct[other]))
    found = []
    for names, by_rate in pairs.items():
        seeds = list(dict.fromkeys(seed for files in by_rate.values() for seed, *_ in files))
        groups = [seeds] if len(seeds) >= SEEDS else [[seed] for seed in seeds]
        for group in groups:
            rows: list[dict] = []
            for rate, files in sorted(by_rate.items()):
                of_group = [(local, global_) for seed, local, global_ in files if seed in group]
                if len(of_group) == len(group):
                    rows.append({"rate": rate} | difference(of_group))
            if not rows:
                continue
            for row, p_value in zip(rows, adjusted([row["p_value"] for row in rows]), strict=True):
                row["p_value"] = p_value
                row["fewer"] = None if p_value > 0.05 else SCOPES[int(row["points"] > 0)]
            found.append(dict(zip(("model", "recovery", "mode"), names, strict=True)) | {"seeds": group, "rates": rows})
    return found


def difference(files: list[tuple[numpy.ndarray, numpy.ndarray]]) -> dict:
    """Return by how many points the second file is more accurate, and the p-value; a pair of bool [n] for each seed.

    With one pair there is no interval over seeds: its bounds are None. The deviation between seeds is taken to be at
    least that of the images: a few seeds may be equal by chance, as their points are multiples of one image.
    """
    points = numpy.array([100 * (float(second.mean()) - float(first.mean())) for first, second in files])
    if len(files) < SEEDS:
        (first, second) = files[0]
        return {"points": points[0], "low": None, "high": None, "p_value": p_of_accuracies(first, second, paired=True)}
    changed = numpy.mean([(first != second).sum() for first, second in files])
    of_images = 100 * numpy.sqrt(changed) / len(files[0][0])
    error = max(float(points.std(ddof=1)), of_images) / numpy.sqrt(len(files))
    mean, freedom = float(points.mean()), len(files) - 1
    half = error * float(scipy.stats.t.ppf(0.975, freedom))
    p_value = 2 * float(scipy.stats.t.sf(abs(mean) / error, freedom)) if error else 1.0
    return {"points": mean, "low": mean - half, "high": mean + half, "p_value": p_value}
