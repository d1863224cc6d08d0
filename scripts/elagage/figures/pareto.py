"""The figure of what accuracy costs."""

import numpy
from matplotlib.figure import Figure

from elagage.figures.drawing import error_bars, label, legend, limit, line_styles, ordered, panels, value_name
from elagage.figures.study import METRICS, Study, disturbance, estimates, metric, seeds

SCOPE_LINES = ("-", "--", ":")


def not_dominated(cost: numpy.ndarray, gain: numpy.ndarray) -> list[bool]:
    """Return for each point whether no other costs as little and gains as much, and is better in one of the two."""
    return [not ((cost <= c) & (gain >= g) & ((cost < c) | (gain > g))).any() for c, g in zip(cost, gain, strict=True)]


def pareto(study: Study) -> Figure:
    """Accuracy against size and against time, two panels for each model and recovery, a line for each mode and scope.

    With several recoveries a ring is still given among all variants of the model: one recovery can dominate another.
    """
    # Not in ms: absolute times of variants measured at different moments differ by more than most variants do.
    study = study._replace(summary=study.summary.assign(relative_time=1 / study.summary["speedup"]))
    summary, counts = study.summary, seeds(study.summary)
    # The file as stored has the same size at every rate: zeros take their bytes.
    size = "packed_size" if "packed_size_bytes" in summary else "model_size"
    costs = [metric(name, summary) for name in (size, "relative_time")]
    accuracy = METRICS["accuracy"]
    accuracies = estimates(study, accuracy)
    models, recoveries = summary["model"].unique(), ordered("recovery", summary["recovery"])
    scopes, styles = ordered("scope", summary["scope"]), line_styles("mode", summary["mode"])
    scope_lines = dict(zip(scopes, SCOPE_LINES, strict=False))
    panel_keys = [(recovery, model, cost) for recovery in recoveries for model in models for cost in costs]
    pairs = 1 if len(recoveries) == 1 else len(models) if len(models) > 1 else 2  # side by side
    figure, axes = panels(len(panel_keys), columns=2 * pairs)
    for axis, (recovery, model, cost) in zip(axes[:, 0], panel_keys, strict=True):
        estimated = estimates(study, cost)
        of_model = accuracies.assign(cost=estimated["value"])[accuracies["model"] == model]
        of_model = of_model.sort_values("rate", kind="stable")
        rows = of_model[of_model["recovery"] == recovery]
        for (mode, scope), line in rows.groupby(["mode", "scope"], sort=False):
            axis.plot(line["cost"], line["value"], color=styles[mode]["color"], ls=scope_lines[scope], linewidth=0.8)
            if counts[model] > 1:
                spread = {"linestyle": "none", "color": styles[mode]["color"], "alpha": 0.4, "linewidth": 0.8}
                bars = error_bars(line), error_bars(estimated.loc[line.index])
                axis.errorbar(line["cost"], line["value"], *bars, **spread)
            axis.plot(line["cost"], line["value"], **styles[mode] | {"linestyle": "none"})
        for scope in scopes if len(scopes) > 1 else []:  # only for the legend
            axis.plot([], [], color="0.4", linestyle=scope_lines[scope], linewidth=0.8, label=scope)
        best = of_model[not_dominated(of_model["cost"].to_numpy(), of_model["value"].to_numpy())]
        best = best[best["recovery"] == recovery]
        axis.plot(best["cost"], best["value"], "ok", fillstyle="none", markersize=11, label="not dominated")
        titles = [model, value_name("recovery", recovery)] if len(recoveries) > 1 else [model]
        label(axis, cost.label, accuracy.label, *titles)
        limit(axis, "x", cost.limits)
        limit(axis, "y", accuracy.limits)
    several = f"mean of {counts.max()} seeds, bars from the lowest to the highest" if counts.max() > 1 else ""
    legend(figure, "; ".join(filter(None, (several, disturbance(study)))))
    return figure
