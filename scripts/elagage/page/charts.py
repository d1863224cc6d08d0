"""The charts of the page, as Vega-Lite that the browser draws.

Colours are Okabe and Ito's; shapes and fills differ, too, so that verdicts can be told apart in grey. Losses have a
symmetric logarithmic axis that is linear up to the margin: a study has losses of 0.1 and of 80 points, and the first
are those that matter.
"""

import math
from typing import Any

import altair

from elagage.axes import LOST, loss_ticks
from elagage.int8_harm import MILLI, SHOWN
from elagage.objectives import OBJECTIVES

BLACK, ORANGE, BLUE, GREEN, VERMILION = "#000000", "#E69F00", "#0072B2", "#009E73", "#D55E00"
SCOPES = {"global": BLACK, "local": ORANGE, "channel": GREEN}  # as in the figures
DASHES = {
    "none": [1, 2],
    "batchnorm": [2, 4],
    "reconstruct": [8, 2, 2, 2],
    "finetune": [5, 3],
    "rewind": [1, 0],
    "iterative": [10, 4],
}
VERDICTS = ["within", "too few images to tell", "beyond"]
STROKES = [BLUE, BLACK, VERMILION]
FILLS = [BLUE, "#ffffff", VERMILION]
SHAPES = ["circle", "diamond", "cross"]
# Column of the summary -> how its axis is called.
COSTS = {by.column: f"{by.name} ({by.axis})" for by in OBJECTIVES.values()} | {"rate": "rate of pruning"}
TOLD: list[dict[str, str]] = [  # of the file below the pointer
    {"field": "file", "type": "nominal"},
    {"field": "verdict", "type": "nominal"},
    {"field": "loss_points", "title": "points lost", "type": "quantitative", "format": ".2f"},
    {"field": "loss_low", "title": "at least", "type": "quantitative", "format": ".2f"},
    {"field": "loss_high", "title": "at most", "type": "quantitative", "format": ".2f"},
    {"field": "accuracy", "type": "quantitative", "format": ".2%"},
    {"field": "model_size_bytes", "title": "file, bytes", "type": "quantitative", "format": ",d"},
    {"field": "packed_size_bytes", "title": "packed, bytes", "type": "quantitative", "format": ",d"},
    {"field": "time_ms", "title": "time, ms", "type": "quantitative", "format": ".4~g"},
    {"field": "speedup", "title": "speed-up", "type": "quantitative", "format": ".2f"},
]
WHISKERS = 60  # files up to which intervals can be told apart
CONFIG: dict[str, Any] = {
    "font": "system-ui, sans-serif",
    "axis": {"labelFontSize": 12, "titleFontSize": 13, "titleFontWeight": "normal", "gridColor": "#e4e4e4"},
    "legend": {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal", "labelLimit": 300},
    "title": {"fontSize": 13, "fontWeight": "normal"},
    "view": {"stroke": None},
}


def losses(field: str, margin: float, title: str) -> altair.Y:
    """Return the axis of a loss in points."""
    # Not datum.label: with this scale Vega writes 50 as 5e+1.
    named = f"datum.value == {margin} ? 'margin {margin:g}' : format(datum.value, '.3~f')"
    axis = altair.Axis(values=loss_ticks(margin), labelExpr=named, domain=False, titleAnchor="start")
    # Not nice: where the lowest loss is -0.1, that would begin the axis at -10.
    scale = altair.Scale(type="symlog", constant=margin, nice=False, padding=10)
    return altair.Y(field, type="quantitative", title=title, axis=axis, scale=scale)


def limit(margin: float) -> altair.LayerChart:
    """Return the margin as a dashed line, and what is within it as a band."""
    base = altair.Chart(altair.InlineData(values=[{"margin": margin}]))
    band = base.mark_rect(color="#f1f5f9").encode(y="margin:Q", y2=altair.value("height"))
    return band + base.mark_rule(color="#333333", strokeDash=[6, 4]).encode(y="margin:Q")


def trade_off(margin: float, filters: list[str]) -> dict[str, Any]:
    """Return the chart of loss against cost, of the data `files`.

    The page sets its parameters: `cost`, a column of COSTS, and for each filter `show_<column>`, a value or "" for all.
    """
    shown = altair.Chart(altair.NamedData("files")).transform_calculate(cost="datum[cost]")
    for name in filters:
        # Dense files belong to every scope and recovery.
        shown = shown.transform_filter(f"show_{name} == '' || datum.{name} == '' || datum.{name} == show_{name}")
    shown = shown.transform_joinaggregate(shown="count()").encode(
        x=altair.X("cost:Q", title=None, axis=_cost_axis(), scale=altair.Scale(zero=False, padding=24)),
        y=losses("loss_points", margin, LOST),
    )
    legend = altair.Legend(title="test at the margin", orient="top", symbolSize=90, columns=3)
    marks = (
        shown.mark_point(size=75, strokeWidth=1.5, fillOpacity=0.85)
        .properties(name="files")
        .encode(
            shape=altair.Shape("verdict:N", scale=altair.Scale(domain=VERDICTS, range=SHAPES), legend=legend),
            stroke=altair.Stroke("verdict:N", scale=altair.Scale(domain=VERDICTS, range=STROKES), legend=legend),
            fill=altair.Fill("verdict:N", scale=altair.Scale(domain=VERDICTS, range=FILLS), legend=legend),
            tooltip=[altair.Tooltip(**told) for told in TOLD],
        )
    )
    whiskers = shown.transform_filter(f"datum.shown <= {WHISKERS}").mark_rule(color="#8a8a8a", strokeWidth=1)
    rings = shown.transform_filter("datum.certified").mark_point(
        size=260, strokeWidth=1.5, stroke=BLACK, fill=None, shape="circle"
    )
    # Only of the answer by this cost: two may be nearly the same file, whose names would hide each other. The name is
    # above the chart, for there may be many files around the answer.
    answers = shown.transform_filter("indexof(datum.answers, cost) >= 0")
    chart = altair.layer(
        limit(margin),
        whiskers.encode(y2="loss_high:Q", y=losses("loss_low", margin, LOST)),
        answers.mark_rule(color=BLACK, strokeDash=[2, 3]).encode(y2=altair.value(0)),
        marks,
        rings,
        answers.mark_text(dy=-6, fontSize=12, fontWeight="bold", text="answer").encode(y=altair.value(0)),
    )
    parameters = [
        altair.param("cost", value=next(iter(COSTS))),
        *(altair.param(f"show_{name}", value="") for name in filters),
    ]
    titles = " : ".join(f"cost == '{column}' ? '{title}'" for column, title in COSTS.items())
    title = altair.Title(altair.expr(f"{titles} : ''"), orient="bottom", anchor="middle", offset=8)
    return drawn(chart.add_params(*parameters).properties(title=title, height=430))


def _cost_axis() -> altair.Axis:
    """Return the axis of whatever column the parameter `cost` names."""
    rate, time, size = "format(datum.value, '.3~%')", "datum.label", "format(datum.value / 1000, ',')"
    labels = f"cost == 'rate' ? {rate} : cost == 'time_ms' ? {time} : {size}"
    # The room beside the points may reach below nothing.
    labels = f"datum.value < 0 ? '' : {labels}"
    return altair.Axis(labelExpr=labels, grid=False, tickCount=6, labelOverlap=True, labelSeparation=6)


def pruning(margin: float, rows: list[dict]) -> dict[str, Any]:
    """Return the chart of loss against the rate, a line for each scope and recovery; rows: as Study.marks."""
    rates = sorted({row["rate"] for row in rows})
    recoveries = [name for name in DASHES if name in {row["recovery"] for row in rows}]
    scopes = [name for name in SCOPES if name in {row["scope"] for row in rows}]
    scope = altair.Scale(domain=scopes, range=[SCOPES[name] for name in scopes])
    legend = altair.Legend(orient="top")
    chart = altair.Chart(altair.InlineData(values=rows)).encode(
        x=altair.X("rate:Q", title="rate of pruning", axis=altair.Axis(values=rates, format=".3~%", grid=False)),
        y=losses("mean(loss_points)", margin, LOST),
        color=altair.Color("scope:N", scale=scope, legend=legend),
        detail="recovery:N",
    )
    lines = chart.mark_line().encode(
        strokeDash=altair.StrokeDash(
            "recovery:N",
            scale=altair.Scale(domain=recoveries, range=[DASHES[name] for name in recoveries]),
            legend=legend if len(recoveries) > 1 else None,
        ),
    )
    points = chart.mark_point(size=60, strokeWidth=2, fill="#ffffff").encode(shape=altair.Shape("scope:N", legend=None))
    return drawn((limit(margin) + lines + points).properties(height=280))


def sensitivity(rows: list[dict]) -> dict[str, Any]:
    """Return the chart of what pruning one layer loses, the mean of the seeds; rows: of sensitivity.csv."""
    highest = max(100 * (row["dense_correct"] - row["correct"]) / row["images"] for row in rows)
    chart = altair.Chart(altair.InlineData(values=rows)).transform_calculate(
        lost="100 * (datum.dense_correct - datum.correct) / datum.images"
    )
    chart = chart.encode(
        x=altair.X("rate:O", title="rate of this layer alone", axis=altair.Axis(format=".3~%", labelAngle=0)),
        y=altair.Y("layer:N", title=None, sort=None, axis=altair.Axis(labelLimit=170)),
        tooltip=[
            altair.Tooltip("layer:N"),
            altair.Tooltip("rate:O", format=".3~%"),
            altair.Tooltip("mean(lost):Q", format=".2f", title="points lost"),
        ],
    )
    shade = altair.Color("mean(lost):Q", scale=altair.Scale(scheme="greys", domainMin=0, clamp=True), legend=None)
    numbers = chart.mark_text(fontSize=12).encode(
        text=altair.Text("mean(lost):Q", format=".1f"),
        color=altair.condition(f"datum.mean_lost > {highest / 2}", altair.value("#ffffff"), altair.value(BLACK)),
    )
    cells = chart.mark_rect(stroke="#ffffff").encode(color=shade)
    return drawn((cells + numbers).properties(height=22 * len({row["layer"] for row in rows})))


def sensitivity_int8(layers: list[dict]) -> dict[str, Any]:
    """Return the chart of what each layer does alone in int8, of the SHOWN most harmful; layers: as joined_layers."""
    harmful = {id(row) for row in sorted(layers, key=lambda row: -row["alone_divergence"])[:SHOWN]}
    shown = [
        {name: row[name] for name in ("layer", "kind")}
        | {name: MILLI * row[f"{name}_divergence"] for name in ("alone", "all")}
        | {"without": None if math.isnan(row["without_divergence"]) else MILLI * row["without_divergence"]}
        for row in layers
        if id(row) in harmful
    ]
    chart = altair.Chart(altair.InlineData(values=shown)).encode(
        x=altair.X("alone:Q", title="thousandths of a nat"),
        y=altair.Y("layer:N", title=None, sort=None, axis=altair.Axis(labelLimit=170)),
        tooltip=[
            altair.Tooltip("layer:N"),
            altair.Tooltip("kind:N"),
            altair.Tooltip("alone:Q", format=".3~g", title="only this layer in int8"),
            altair.Tooltip("without:Q", format=".3~g", title="only this layer in float32"),
            altair.Tooltip("all:Q", format=".3~g", title="all layers in int8"),
        ],
    )
    return drawn(chart.mark_bar(color=BLUE).properties(height=22 * len(shown)))


def training(rows: list[dict]) -> dict[str, Any]:
    """Return the chart of the accuracy by epoch, a line for the training and one for the validation images."""
    chart = altair.Chart(altair.InlineData(values=rows)).transform_fold(
        ["train_accuracy", "validation_accuracy"], as_=["images", "accuracy"]
    )
    images = "datum.images == 'train_accuracy' ? 'training' : 'validation'"
    chart = (
        chart.transform_calculate(images=images)
        .mark_line()
        .encode(
            x=altair.X("epoch:Q", title="epoch", axis=altair.Axis(format="d", tickMinStep=1, grid=False)),
            y=altair.Y("accuracy:Q", title="accuracy", axis=altair.Axis(format=".0%"), scale=altair.Scale(zero=False)),
            color=altair.Color(
                "images:N", title="images", scale=altair.Scale(range=[ORANGE, BLUE]), legend=altair.Legend(orient="top")
            ),
            strokeDash=altair.StrokeDash("images:N"),
            detail="seed:N",
        )
    )
    return drawn(chart.properties(height=220))


def drawn(chart: altair.TopLevelMixin) -> dict[str, Any]:
    """Return a chart as Vega-Lite, as wide as the page; Altair checks it against the schema."""
    fit = altair.AutoSizeParams(type="fit-x", contains="padding")
    return chart.properties(width="container", autosize=fit).configure(**CONFIG).to_dict()
