"""The charts of the page, as Vega-Lite that the browser draws.

Colours are Okabe and Ito's; shapes and fills differ, too, so that verdicts can be told apart in grey. Losses have a
symmetric logarithmic axis that is linear up to the margin: a study has losses of 0.1 and of 80 points, and the first
are those that matter.
"""

from typing import Any

import altair

BLACK, ORANGE, SKY, GREEN, BLUE, VERMILION, PURPLE = (
    *("#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7"),
)
VERDICTS = ["within", "too few images to tell", "beyond"]
STROKES = [BLUE, BLACK, VERMILION]
FILLS = [BLUE, "#ffffff", VERMILION]
SHAPES = ["circle", "diamond", "cross"]
COSTS = {  # column -> how the axis is called
    "model_size_bytes": "size of the ONNX file (kB)",
    "packed_size_bytes": "size of the packed file (kB)",
    "time_ms": "time per image (ms)",
    "rate": "rate of pruning",
}
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)  # points
WHISKERS = 60  # files up to which intervals can be told apart
# The browser gives the chart its width.
CONFIG = {
    "font": "system-ui, sans-serif",
    "axis": {"labelFontSize": 12, "titleFontSize": 13, "titleFontWeight": "normal", "gridColor": "#e4e4e4"},
    "legend": {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal", "labelLimit": 300},
    "title": {"fontSize": 13, "fontWeight": "normal"},
    "view": {"stroke": None},
}


def losses(field: str, margin: float, title: str) -> altair.Y:
    """Return the axis of a loss in points."""
    ticks = [0, margin, *(tick for tick in TICKS if tick > 1.5 * margin)]
    axis = altair.Axis(values=[*(-tick for tick in ticks[1:]), *ticks], format="~g", titleAnchor="start")
    return altair.Y(field, type="quantitative", title=title, axis=axis, scale=altair.Scale(type="symlog", constant=margin))


def limit(margin: float) -> altair.LayerChart:
    """Return the margin as a dashed line, and what is within it as a band."""
    base = altair.Chart(altair.InlineData(values=[{"margin": margin}]))
    band = base.mark_rect(color="#f1f5f9").encode(y="margin:Q", y2=altair.value("height"))
    line = base.mark_rule(color="#333333", strokeDash=[6, 4]).encode(y="margin:Q")
    text = base.mark_text(align="right", dy=-7, color="#333333", fontSize=12, text=f"margin: {margin:g} points")
    return band + line + text.encode(x=altair.value("width"), y="margin:Q")


def trade_off(margin: float, filters: list[str]) -> dict[str, Any]:
    """Return the chart of loss against cost, of the data `files`.

    The page sets its parameters: `cost`, a column of COSTS, and for each filter `show_<column>`, a value or "" for all.
    """
    titles = " : ".join(f"cost == '{column}' ? '{title}'" for column, title in COSTS.items())
    labels = "cost == 'rate' ? format(datum.value, '.0%') : cost == 'time_ms' ? datum.label : format(datum.value / 1000, ',')"
    shown = altair.Chart(altair.NamedData("files")).transform_calculate(cost="datum[cost]")
    for name in filters:
        # Dense files belong to every scope and recovery.
        shown = shown.transform_filter(f"show_{name} == '' || datum.{name} == '' || datum.{name} == show_{name}")
    shown = shown.transform_joinaggregate(shown="count()").encode(
        x=altair.X("cost:Q", title=None, axis=altair.Axis(labelExpr=labels, grid=False), scale=altair.Scale(zero=False, nice=True)),
        y=losses("loss_points", margin, "points of accuracy lost against the reference"),
    )
    legend = altair.Legend(title="test at the margin", orient="top", symbolSize=90, columns=3)
    scale = lambda values: altair.Scale(domain=VERDICTS, range=values)  # noqa: E731
    marks = shown.mark_point(size=75, strokeWidth=1.5, fillOpacity=0.85).encode(
        shape=altair.Shape("verdict:N", scale=scale(SHAPES), legend=legend),
        stroke=altair.Stroke("verdict:N", scale=scale(STROKES), legend=legend),
        fill=altair.Fill("verdict:N", scale=scale(FILLS), legend=legend),
        tooltip=[
            altair.Tooltip("file:N"),
            altair.Tooltip("verdict:N"),
            *(
                altair.Tooltip(f"{column}:Q", title=title, format=how)
                for column, title, how in (
                    ("loss_points", "points lost", ".2f"),
                    ("loss_low", "at least", ".2f"),
                    ("loss_high", "at most", ".2f"),
                    ("accuracy", "accuracy", ".2%"),
                    ("model_size_bytes", "file, bytes", ",d"),
                    ("packed_size_bytes", "packed, bytes", ",d"),
                    ("time_ms", "time, ms", ".4~g"),
                    ("speedup", "speed-up", ".2f"),
                )
            ),
        ],
    )
    whiskers = shown.transform_filter(f"datum.shown <= {WHISKERS}").mark_rule(color="#8a8a8a", strokeWidth=1)
    rings = shown.transform_filter("datum.certified").mark_point(size=260, strokeWidth=1.5, stroke=BLACK, fill=None, shape="circle")
    names = shown.transform_filter("datum.answer != ''").mark_text(dy=18, fontSize=12, fontWeight="bold", color=BLACK)
    chart = altair.layer(
        limit(margin),
        whiskers.encode(y2="loss_high:Q", y=losses("loss_low", margin, "points of accuracy lost against the reference")),
        marks,
        rings,
        names.encode(text="answer:N"),
    )
    parameters = [altair.param("cost", value=next(iter(COSTS))), *(altair.param(f"show_{name}", value="") for name in filters)]
    title = altair.Title(altair.expr(f"{titles} : ''"), orient="bottom", anchor="middle", offset=8)
    return drawn(chart.add_params(*parameters).properties(title=title, height=430))


def pruning(margin: float, rows: list[dict]) -> dict[str, Any]:
    """Return the chart of loss against the rate, a line for each scope and recovery; rows: as Study.marks."""
    chart = altair.Chart(altair.InlineData(values=rows)).encode(
        x=altair.X("rate:Q", title="rate of pruning", axis=altair.Axis(format=".0%", grid=False)),
        y=losses("mean(loss_points)", margin, "points lost"),
        color=altair.Color("scope:N", scale=altair.Scale(range=[BLUE, ORANGE, GREEN]), legend=altair.Legend(orient="top")),
        strokeDash=altair.StrokeDash("recovery:N", legend=altair.Legend(orient="top")),
        shape=altair.Shape("scope:N"),
    )
    return drawn((limit(margin) + chart.mark_line(point=altair.OverlayMarkDef(size=50))).properties(height=260))


def sensitivity(rows: list[dict]) -> dict[str, Any]:
    """Return the chart of the accuracy with one layer pruned; rows: of sensitivity.csv, with the place of each layer."""
    chart = altair.Chart(altair.InlineData(values=rows)).transform_calculate(
        lost="100 * (datum.dense_correct - datum.correct) / datum.images"
    )
    chart = chart.mark_rect(stroke="#ffffff").encode(
        x=altair.X("rate:O", title="rate at which this layer alone is pruned", axis=altair.Axis(format=".0%", labelAngle=0)),
        y=altair.Y("layer:N", title=None, sort=None, axis=altair.Axis(labelLimit=170)),
        color=altair.Color(
            "mean(lost):Q",
            title="points lost, of validation images",
            scale=altair.Scale(scheme="greys", domainMin=0, clamp=True),
            legend=altair.Legend(orient="top", gradientLength=160, titleLimit=300),
        ),
        tooltip=[altair.Tooltip("layer:N"), altair.Tooltip("rate:O", format=".0%"), altair.Tooltip("mean(lost):Q", format=".2f", title="points lost")],
    )
    return drawn(chart.properties(height=altair.Step(18)))


def training(rows: list[dict]) -> dict[str, Any]:
    """Return the chart of the accuracy by epoch, a line for the training and one for the validation images."""
    chart = altair.Chart(altair.InlineData(values=rows)).transform_fold(
        ["train_accuracy", "validation_accuracy"], as_=["images", "accuracy"]
    )
    chart = chart.transform_calculate(images="replace(datum.images, '_accuracy', '')").mark_line().encode(
        x=altair.X("epoch:Q", title="epoch", axis=altair.Axis(format="d", tickMinStep=1, grid=False)),
        y=altair.Y("accuracy:Q", title="accuracy", axis=altair.Axis(format=".0%"), scale=altair.Scale(zero=False)),
        color=altair.Color("images:N", title="images", scale=altair.Scale(range=[ORANGE, BLUE]), legend=altair.Legend(orient="top")),
        strokeDash=altair.StrokeDash("images:N"),
        detail="seed:N",
    )
    return drawn(chart.properties(height=220))


def drawn(chart: altair.TopLevelMixin) -> dict[str, Any]:
    """Return a chart as Vega-Lite, as wide as the page; Altair checks it against the schema."""
    return chart.properties(width="container").configure(**CONFIG).to_dict()
