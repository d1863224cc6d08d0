"""Figures: each can be drawn for every kind of study, says its units, and can be read in grey."""

import itertools
import math
import pathlib
import re

import numpy
import pandas
import pytest
from PIL import Image
from runners import python

from elagage.errors import UserError
from elagage.figures.drawing import COLORS, digits, line_styles, on_panel, spread
from elagage.figures.pareto import front
from elagage.figures.quantization import lowest_rate
from elagage.figures.registry import FIGURES
from elagage.figures.sensitivity import explanation, tables
from elagage.figures.study import METRICS, Study, estimates, metric, whiskers
from plot import draw, plot, read_study

REPOSITORY = pathlib.Path(__file__).parents[1]
SCOPES = ("local", "global")
EVERY_SCOPE = (*SCOPES, "channel")
MODES = ("float32", "dynamic", "dynamic_conv", "static")
RECOVERIES = ("none", "batchnorm", "finetune", "rewind", "iterative")
NINE = tuple(rate / 10 for rate in range(10))
UNIT = re.compile(r"\((%|ms|kB|MB|nats|thousandths of a nat|dense float32 = 1)\)$|^points of accuracy lost")
ANSWER = {"maximum_accuracy_loss": 1.0, "confidence": 0.95}


def loss(name, points):
    """Return the columns of a loss, with bounds half a point away."""
    return {f"{name}_{part}": points + away for part, away in (("points", 0), ("low", -0.5), ("high", 0.5))}


def summary(models=("resnet20",), seeds=(0,), scopes=SCOPES, rates=(0.0, 0.5, 0.9), modes=MODES, recoveries=("none",)):
    """Return a summary in which accuracy falls with the rate, and int8 is small; the seeds differ by 0.01.

    Packed files shrink with the rate, at rate 0.5 to 0.55 of their size; channels that are removed shrink all.
    """
    rows = []
    variants = itertools.product(enumerate(models), seeds, scopes, rates, enumerate(recoveries), enumerate(modes))
    for (place, model), seed, scope, rate, (rank, recovery), (number, mode) in variants:
        hurts = {"local": 0.6, "global": 0.5, "channel": 0.75}[scope]
        dense = 0.85 - 0.05 * place
        accuracy = dense - hurts * rate ** (3 + rank) - 0.02 * rate * number - 0.01 * seed
        removed = rate if scope == "channel" else 0
        time = (1 + place) * (1.3 - 0.1 * number) * (1 - 0.6 * removed)
        size = (1_156_000 if mode == "float32" else 368_000) * (1 - removed)
        rows.append(
            {"model": model, "seed": seed, "scope": scope, "rate": rate, "recovery": recovery, "mode": mode}
            | {"accuracy": accuracy, "reference": f"results/models/{models[0]}/seed{seeds[0]}/dense-float32.onnx"}
            | loss("dense_loss", 100 * (dense - accuracy))
            | loss("loss", 100 * (0.85 - accuracy))
            | {"model_size_bytes": size, "packed_size_bytes": size * (1 - 0.9 * (rate - removed))}
            | {"time_ms": time, "time_low_ms": 0.9 * time, "time_high_ms": 1.1 * time}
            | {"dense_time_ms": 1.0, "speedup": 1 / time, "speedup_low": 0.9 / time, "speedup_high": 1.1 / time}
            | {"eager_time_ms": 4.6, "eager_time_low_ms": 4.5, "eager_time_high_ms": 4.8}
            | {"machine_busy": 0.02, "macs": 41_000_000 * (1 - removed) ** 1.5}
        )
    return pandas.DataFrame(rows)


def sensitivities(rates, layers=8):
    """Return the rows of one sensitivity.csv: early layers lose most, and global pruning takes least from them."""
    rows = []
    for rate, layer in itertools.product(rates, range(layers)):
        depth = layer / max(1, layers - 1)
        row = {"layer": f"stage{layer // 3}.{layer % 3}.conv.weight", "weights": 100 * (layer + 1), "rate": rate}
        row |= {"correct": round(900 * (1 - 0.8 * rate**2 * (1 - depth))), "dense_correct": 900, "images": 1000}
        rows.append(row | {"global_share": rate * (0.4 + 0.6 * depth)})
    return pandas.DataFrame(rows)


def history(epochs=5, seed=0):
    """Return the epochs of one training; the last but one is the best, a higher seed learns more slowly."""
    epoch = numpy.arange(1, epochs + 1)
    columns = {"epoch": epoch, "learning_rate": 0.1 / epoch, "best": epoch == max(1, epochs - 1)}
    columns |= {"train_loss": (2 + 0.1 * seed) / epoch, "train_accuracy": 1 - 0.5 / epoch}
    columns |= {"validation_loss": 2.2 / epoch, "validation_accuracy": 0.8 - 0.01 * seed}
    return pandas.DataFrame(columns)


def int8_sensitivities(layers):
    """Return the rows of one sensitivity_int8.csv: the last layer harms most."""
    return pandas.DataFrame(
        {
            "layer": [f"stage{layer // 3}.{layer % 3}.conv.weight" for layer in range(layers)],
            "kind": "Conv 3x3",
            "images": 80,
            **{f"{kind}_changed": 2 for kind in ("alone", "without", "all")},
            "alone_divergence": [1e-5 * layer for layer in range(1, layers + 1)],
            "without_divergence": [1e-4 * layers - 1e-5 * layer for layer in range(1, layers + 1)],
            "all_divergence": 1e-4 * layers,
        }
    )


def study(models=("resnet20",), trained=True, epochs=5, layers=8, given=(), **settings):
    """Return a study whose models are all trained, or came with their weights; those of `given` have one seed."""
    table = summary(models, **settings)
    table = table[~table["model"].isin(given) | (table["seed"] == table["seed"].iloc[0])]
    keys = list(table[["model", "seed"]].drop_duplicates().itertuples(index=False))
    histories = [history(epochs, key.seed).assign(model=key.model, seed=key.seed) for key in keys if trained]
    rates = [rate for rate in table["rate"].unique() if rate]
    layered = [sensitivities(rates, layers).assign(model=key.model, seed=key.seed) for key in keys if rates]
    rounded = [int8_sensitivities(layers).assign(model=key.model, seed=key.seed) for key in keys if layers]
    tables = [pandas.concat(parts) if parts else pandas.DataFrame() for parts in (histories, layered, rounded)]
    return Study(table, *tables[:2], ANSWER, int8_sensitivity=tables[2])


NAMES = ("my.net-2", "NA", "a_network_whose_name_is_far_too_long_for_the_title_of_a_panel_v2")
STUDIES = {
    "usual": study(),
    "one of each": study(scopes=("local",), rates=(0.0,), modes=("float32",), epochs=1),
    "one pruned rate": study(scopes=("global",), rates=(0.95,), modes=("static",), trained=False),
    "several models and seeds": study(NAMES, seeds=(0, 1, 7), given=NAMES[1:2]),
    "more models than styles": study([f"m{index}" for index in range(8)], scopes=("local",), modes=("float32",)),
    "recoveries": study(recoveries=("none", "finetune"), modes=("float32", "static")),
    "all of all": study(
        NAMES[1:], seeds=(0, 7), scopes=EVERY_SCOPE, modes=(*MODES, "qat"), recoveries=RECOVERIES, given=NAMES[1:2]
    ),
    "unknown mode": study(modes=("float32", "qat", "int4")),
}
FAST = ("usual", "one of each")
DRAWN = [
    pytest.param(name, of, id=f"{name}, {title}", marks=() if title in FAST else pytest.mark.slow)
    for name, (title, of) in itertools.product(FIGURES, STUDIES.items())
    if ("_pruning_" not in name or name.split("_")[0] in set(of.summary["scope"]))
    and not (name == "sensitivity" and of.sensitivity.empty)
]


def lines_of(figure):
    """Return the labels of the lines of a figure: of its legend or, from above, at the lines of its first panel."""
    texts = figure.legends[0].get_texts() if figure.legends else []
    return [text.get_text() for text in texts or sorted(figure.axes[0].texts, key=lambda text: -text.get_position()[1])]


def title_of(figure):
    """Return the title of a figure's legend in one line."""
    return figure.legends[0].get_title().get_text().replace("\n", " ")


@pytest.mark.filterwarnings("error")  # matplotlib warns of panels without room
@pytest.mark.parametrize(("name", "of"), DRAWN)
def test_every_figure_of_every_study_is_drawn_and_says_its_units(name, of):
    figure = FIGURES[name](of)
    figure.draw_without_rendering()
    for axis in figure.axes:
        texts = {axis.get_xlabel(), axis.get_ylabel()} - {"", "epoch", "learning rate"}
        assert all(UNIT.search(text) for text in texts), texts
    assert not figure.axes or any(axis.get_xlabel() for axis in figure.axes)  # of stacked panels the lowest has one


@pytest.mark.parametrize("name", FIGURES)
def test_axes_of_costs_start_at_zero(name):
    for axis in FIGURES[name](study(scopes=EVERY_SCOPE)).axes:
        for text, (low, _) in ((axis.get_xlabel(), axis.get_xlim()), (axis.get_ylabel(), axis.get_ylim())):
            if "size" in text or "time" in text or "speed" in text or text in ("loss (nats)", "learning rate"):
                assert low == 0


@pytest.mark.parametrize("margin", [0.2, 1.0, 3.0, 100.0])
@pytest.mark.parametrize("name", ["local_pruning_accuracy", "scopes_accuracy", "quantization_comparison", "pareto"])
def test_losses_are_drawn_with_the_margin_and_room_where_accuracies_are_near(name, margin):
    figure = FIGURES[name](study()._replace(answer=ANSWER | {"maximum_accuracy_loss": margin}))
    axis, which = figure.axes[0], "x" if name == "quantization_comparison" else "y"
    low, high = getattr(axis, f"get_{which}lim")()
    assert low < 0 < margin < high
    (dashed,) = [line for line in axis.lines if line.get_color() == "0.2"]
    assert set(getattr(dashed, f"get_{which}data")()) == {margin}
    (band,) = axis.patches
    corners = band.get_bbox().get_points()[:, int(which == "y")]
    assert corners == pytest.approx([low, margin])
    names = [text.get_text() for text in getattr(axis, f"get_{which}ticklabels")()]
    (named,) = [text for text in names if "margin" in text]
    assert f"{margin:g}" in named
    heights = on_panel(axis, *([[0, margin / 2, margin]] * 2))[:, int(which == "y")]
    assert numpy.diff(heights, 2) == pytest.approx(0)  # linear up to the margin
    assert numpy.diff(heights).sum() > 0.2  # of the panel


def test_the_summary_and_the_histories_are_read_as_they_were_written(tmp_path):
    table = summary(models=("NA", "007", "1e5"), seeds=(0, 3))
    table.assign(refused=None).to_csv(tmp_path / "summary.csv", index=False)
    trainings = []
    for model, seed in itertools.product(("NA", "007"), (0, 3)):
        trainings.append(tmp_path / "models" / model / f"seed{seed}" / "history.csv")
        trainings[-1].parent.mkdir(parents=True)
        history().to_csv(trainings[-1], index=False)
    with open(tmp_path / "summary.csv", "a") as file:  # as csv.DictWriter writes what could not be measured
        file.write(",".join(["NA", "3", "local", "0.99", "none", "static", "0.1", *["nan", ""] * 5, "1", ""]) + "\n")
    layered = [path.with_name("sensitivity.csv") for path in trainings[:2]]
    for path in layered:
        sensitivities((0.5,), layers=3).to_csv(path, index=False)
    read = read_study(tmp_path / "summary.csv", trainings, layered, ANSWER)
    assert list(read.summary["model"].unique()) == ["NA", "007", "1e5"]
    assert set(read.summary["recovery"]) == {"none"}
    assert read.summary["accuracy"].dtype == float
    assert {*zip(read.history["model"], read.history["seed"], strict=True)} == {
        *itertools.product(("NA", "007"), (0, 3))
    }
    assert read.history["best"].dtype == bool and read.history["best"].sum() == 4
    assert list(read.sensitivity["model"]) == ["NA"] * 6 and list(read.sensitivity["seed"]) == [0] * 3 + [3] * 3
    alone = read_study(tmp_path / "summary.csv", [], [], ANSWER)
    assert alone.history.empty and alone.sensitivity.empty and alone.int8_sensitivity.empty


def refused_study(scopes) -> Study:
    """Return a study of two models, of which the second can be pruned in none of these scopes."""
    whole = study(models=("plain", "odd"), scopes=EVERY_SCOPE, recoveries=("none", "finetune"))
    refused = (whole.summary["model"] == "odd") & whole.summary["scope"].isin(scopes) & (whole.summary["rate"] > 0)
    return whole._replace(summary=whole.summary[~refused], refused=whole.summary[refused].assign(refused="a reason"))


@pytest.mark.parametrize("scopes", [("channel",), EVERY_SCOPE], ids=["one scope", "all"])
def test_figures_say_what_was_refused(scopes):
    refused = refused_study(scopes)
    for name in FIGURES:
        figure = draw(name, refused)
        title = figure.legends[0].get_title().get_text() if figure.legends else figure.texts[-1].get_text()
        note = title.replace("\n", " ").partition(". ")[0]
        assert "Refused, so not shown" in note and "plain" not in note
        assert all(f"odd, {scope}" in note for scope in scopes)


def test_a_study_of_which_nothing_is_left_has_figures_that_say_so(tmp_path):
    whole = study()
    nothing = whole._replace(summary=whole.summary[:0], refused=whole.summary.assign(refused="a reason"))
    plot(nothing, [tmp_path / "pareto.png"])
    assert (tmp_path / "pareto.png").stat().st_size > 1000
    assert "resnet20, local" in draw("pareto", nothing).texts[-1].get_text()


def test_names_are_text_whatever_they_contain(tmp_path):
    of = study()
    layers = of.sensitivity["layer"].replace("stage0.0.conv.weight", r"$\nonsense$.weight")
    plot(of._replace(sensitivity=of.sensitivity.assign(layer=layers)), [tmp_path / "sensitivity.png"])
    assert (tmp_path / "sensitivity.png").exists()


DENSE = ("quantization_comparison", "sensitivity", "sensitivity_int8")  # where much is coloured


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in DENSE else pytest.mark.slow) for name in FIGURES]
)
def test_files_are_large_not_blank_and_the_same_every_time(tmp_path, name):
    of, first, second = study(scopes=EVERY_SCOPE), tmp_path / f"{name}.png", tmp_path / "second" / f"{name}.png"
    plot(of, [first, second])
    assert first.read_bytes() == second.read_bytes()
    with Image.open(first) as image:
        assert image.width >= 1000 and image.height >= 400
        assert image.info.keys() == {"dpi"}
        shades = numpy.asarray(image.convert("L"))
    assert shades.min() < 50 and 0.01 < (shades < 250).mean() < (0.9 if name.startswith("sensitivity") else 0.5)


def test_a_figure_that_does_not_exist_is_refused_by_name_and_leaves_no_file(tmp_path):
    with pytest.raises(UserError, match=r"pareta.*pareto"):
        plot(STUDIES["usual"], [tmp_path / "pareta.png"])
    with pytest.raises(UserError, match=r"pruning.scopes.*global"):
        plot(STUDIES["one of each"], [tmp_path / "global_pruning_accuracy.png"])
    with pytest.raises(UserError, match=r"sensitivity.images is 0"):
        plot(STUDIES["one of each"], [tmp_path / "sensitivity.png"])
    assert not list(tmp_path.iterdir())


def test_modes_differ_in_colour_marker_and_line_and_look_the_same_in_every_study():
    styles = [tuple(map(str, looks.values())) for looks in line_styles("mode", MODES).values()]
    for values in zip(*styles, strict=True):
        assert len(set(values)) in (1, len(MODES))  # 1: the fill
    assert line_styles("mode", ["static"]) == {"static": line_styles("mode", MODES)["static"]}


def test_modes_differ_in_luminance():
    def luminance(color):  # WCAG 2
        parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    values = sorted(luminance(color) for color in COLORS[: len(MODES)])
    assert all(high + 0.05 > 1.4 * (low + 0.05) for low, high in itertools.pairwise(values))


@pytest.mark.parametrize(
    ("column", "values"),
    [("recovery", RECOVERIES), ("mode", (*MODES, "qat", "int4", "int2", "int1", "ternary")), ("scope", EVERY_SCOPE)],
)
def test_every_line_of_a_figure_has_its_own_label_and_look(column, values):
    styles = line_styles(column, values).values()
    assert len(styles) == len(values)
    assert len({style["label"] for style in styles}) == len(styles)
    assert len({(style["marker"], style["fillstyle"]) for style in styles}) == len(styles)


@pytest.mark.parametrize("scope", SCOPES)
def test_pruning_draws_a_panel_per_model_a_line_per_mode_and_the_dense_model(scope):
    figure = FIGURES[f"{scope}_pruning_accuracy"](STUDIES["several models and seeds"])
    titles = [axis.get_title().replace("\n", "").replace(", dense", "dense") for axis in figure.axes]
    dense = (85, 80, 75)
    assert titles == [f"{name}dense float32: {value:.1f} %" for name, value in zip(NAMES, dense, strict=True)]
    assert lines_of(figure) == ["float32", "dynamic int8", "dynamic_conv int8", "static int8"]
    assert all(scope in axis.get_xlabel() for axis in figure.axes)
    assert [axis.get_ylabel() != "" for axis in figure.axes] == [True, False, False]
    without = FIGURES["global_pruning_accuracy"](STUDIES["one pruned rate"])
    assert lines_of(without) == ["static int8"]


@pytest.mark.parametrize("name", ["accuracy", "inference_time", "model_size"])
def test_pruning_of_several_recoveries_draws_a_panel_for_each_with_the_lines_of_one(name):
    of = study(("mine", "yours"), recoveries=("finetune", "none"), modes=("float32", "static"))
    figure = FIGURES[f"global_pruning_{name}"](of)
    titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
    expected = ["mine, as pruned", "mine, finetune", "yours, as pruned", "yours, finetune"]
    assert [re.split(r",?\s+dense", title)[0] for title in titles] == expected
    alone = study(("mine", "yours"), modes=("float32", "static"))
    assert sorted(lines_of(figure)) == sorted(lines_of(FIGURES[f"global_pruning_{name}"](alone)))


def test_recoveries_are_lines_in_a_panel_for_each_scope():
    figure = FIGURES["recovery_comparison"](study(scopes=EVERY_SCOPE, recoveries=("iterative", "none", "finetune")))
    assert lines_of(figure) == ["as pruned", "finetune", "iterative"]
    titles = [axis.get_title().partition("\n")[0] for axis in figure.axes]
    assert titles == ["resnet20, global", "resnet20, local", "resnet20, channel"]
    assert figure.axes[0].get_ylabel() == "points of accuracy lost, float32"
    at_half = [container.lines[0].get_ydata()[1] for container in figure.axes[2].containers]
    powers = (4, 5, 3)  # of none, finetune and iterative, which stand second, third and first in the study
    assert at_half == pytest.approx([75 * 0.5**power for power in powers])


def test_the_packed_size_is_strong_and_falls_below_the_thin_flat_size_of_the_file():
    figure = FIGURES["global_pruning_model_size"](study(modes=("float32", "static")))
    names = ["float32, ONNX file", "static int8, ONNX file", "float32, packed", "static int8, packed"]
    assert lines_of(figure) == names  # from above, as they end
    packed, packed_int8, stored, stored_int8 = [container.lines[0] for container in figure.axes[0].containers]
    assert packed.get_ydata() == pytest.approx([1156, 635.8, 219.64])
    assert list(stored.get_ydata()) == [1156] * 3 and list(stored_int8.get_ydata()) == [368] * 3
    assert packed.get_color() == stored.get_color() != packed_int8.get_color()
    assert packed.get_linewidth() > stored.get_linewidth() and stored.get_marker() in (None, "None", "")


def test_the_time_that_fewer_multiplications_let_expect_is_drawn_where_channels_are_removed():
    of = study(scopes=("global", "channel"))
    assert not any("MACs" in text for text in lines_of(FIGURES["global_pruning_inference_time"](of)))
    figure = FIGURES["channel_pruning_inference_time"](of)
    (line,) = [line for line in figure.axes[0].lines if line.get_color() == "0.5" and line.get_xdata()[-1] == 90]
    assert line.get_ydata() == pytest.approx([1.0, 0.5**-1.5, 0.1**-1.5])
    assert "MACs" in lines_of(figure)[0]
    low, high = figure.axes[0].get_ylim()
    assert low == 0 and 1 < high < 5  # what is expected at rate 0.9 does not press the measurements flat


def test_the_figure_of_time_shows_the_speedup_and_says_the_milliseconds():
    figure = FIGURES["global_pruning_inference_time"](study(modes=("float32", "static")))
    [axis] = figure.axes
    assert axis.get_ylabel() == "speed-up (dense float32 = 1)"
    assert axis.get_title() == "resnet20, dense float32: 1.00 ms"
    static = axis.containers[1]
    assert static.lines[0].get_ydata() == pytest.approx([1 / 1.2] * 3)
    ends = static.lines[2][0].get_segments()
    assert [bar[:, 1] for bar in ends] == [pytest.approx([0.9 / 1.2, 1.1 / 1.2])] * 3
    assert lines_of(figure) == ["static int8", "float32"]


@pytest.mark.parametrize("name", ["global_pruning_inference_time", "quantization_comparison", "pareto"])
def test_a_figure_of_times_says_that_the_machine_was_busy(name):
    quiet, unknown = study(), study()
    unknown.summary["machine_busy"] = numpy.nan
    busy = study()
    busy.summary.loc[busy.summary["rate"] == 0, "machine_busy"] = 0.46
    titles = [title_of(FIGURES[name](of)) for of in (quiet, unknown, busy)]
    assert "46 %" in titles[2] and "other programs" in titles[2]
    assert not any("other programs" in title for title in titles[:2])


def test_whiskers_are_the_interval_of_one_seed_and_the_range_of_several():
    one = estimates(study(), METRICS["dense_loss"])
    assert numpy.allclose(one["value"] - one["low"], 0.5) and numpy.allclose(one["high"] - one["value"], 0.5)
    several = estimates(study(seeds=(0, 1, 8)), METRICS["dense_loss"])
    assert numpy.allclose(several["value"] - several["low"], 3)
    assert numpy.allclose(several["high"] - several["value"], 5)
    titles = [
        FIGURES["local_pruning_accuracy"](study(seeds=seeds)).legends[0].get_title().get_text()
        for seeds in ((4,), (0, 1))
    ]
    assert "95 %" in titles[0]
    assert "2 seeds" in titles[1] and "lowest" in titles[1] and "95" not in titles[1]


def test_a_model_with_one_seed_beside_models_with_several_keeps_its_interval_and_is_named():
    of = study(("mine", "given"), seeds=(0, 1, 8), given=("given",))
    table = estimates(of, METRICS["dense_loss"]).set_index("model")
    mine, given = table.loc["mine"], table.loc["given"]
    assert numpy.allclose(mine["high"] - mine["value"], 5) and numpy.allclose(mine["value"] - mine["low"], 3)
    assert numpy.allclose(given["high"] - given["value"], 0.5) and numpy.allclose(given["value"] - given["low"], 0.5)
    text = "mean of 3 seeds, whiskers from the lowest to the highest"
    bounds = "bounds of the loss, each with 95 % confidence"
    assert whiskers(of, METRICS["dense_loss"]) == f"{text}; one seed of given, whiskers: {bounds}"
    assert whiskers(of, METRICS["model_size"]) == text


def test_a_size_has_no_interval_and_a_unit_that_fits():
    table = summary()
    assert metric("model_size", table).label == "model size (kB)"
    assert estimates(study()._replace(summary=table), metric("model_size", table))["value"].max() == 1156
    large = table.assign(model_size_bytes=44_700_000)
    assert metric("model_size", large).label == "model size (MB)"
    assert metric("packed_size", large).label == "packed size (MB)"
    assert estimates(study()._replace(summary=large), metric("model_size", large))["value"].max() == pytest.approx(44.7)
    assert not any(
        legend.get_title().get_text() for legend in FIGURES["local_pruning_model_size"](STUDIES["usual"]).legends
    )


def test_scopes_are_lines_in_float32_or_the_first_mode():
    figure = FIGURES["scopes_accuracy"](STUDIES["usual"])
    assert lines_of(figure) == ["local", "global"]
    assert figure.axes[0].get_ylabel() == "points of accuracy lost, float32"
    every = FIGURES["scopes_accuracy"](study(scopes=EVERY_SCOPE))
    assert lines_of(every) == ["channel", "local", "global"]
    quantized = FIGURES["scopes_accuracy"](study(modes=("static", "dynamic")))
    assert quantized.axes[0].get_ylabel() == "points of accuracy lost, static int8"


@pytest.mark.parametrize("name", ["global_pruning_model_size", "channel_pruning_inference_time", "pareto"])
@pytest.mark.parametrize("modes", [("static",), MODES])
def test_names_at_lines_and_points_do_not_overlap(name, modes):
    figure = FIGURES[name](study(scopes=EVERY_SCOPE, modes=modes, rates=NINE))
    figure.draw_without_rendering()
    for axis in figure.axes:
        boxes = [text.get_window_extent() for text in axis.texts]
        assert boxes and not any(first.overlaps(second) for first, second in itertools.combinations(boxes, 2))
        assert all(axis.bbox.ymin - 1 <= box.ymin and box.ymax <= axis.bbox.ymax + 1 for box in boxes)


@pytest.mark.parametrize("places", [[0.2, 0.8], [0.5] * 4, [-3, 0.5, 0.52, 9], [0.9, 0.1, 0.11], [1, 1, 1], []])
def test_spread_keeps_the_order_and_moves_only_what_would_overlap(places):
    moved = spread(places, 0.1)
    assert list(numpy.argsort(moved)) == list(numpy.argsort(places, kind="stable"))
    assert numpy.all(numpy.diff(numpy.sort(moved)) >= 0.1 - 1e-9)
    assert numpy.all((moved >= 0.05 - 1e-9) & (moved <= 0.95 + 1e-9))
    alone = [
        place for place in places if 0.05 <= place <= 0.95 and sum(abs(place - other) < 0.2 for other in places) == 1
    ]
    assert all(numpy.isclose(moved, place).any() for place in alone)


def test_few_panels_name_lines_at_their_ends_and_many_have_a_legend():
    few, many = (FIGURES["local_pruning_accuracy"](study([f"m{index}" for index in range(count)])) for count in (2, 3))
    assert [len(axis.texts) for axis in few.axes] == [len(MODES)] * 2 and not few.legends[0].get_texts()
    assert not any(axis.texts for axis in many.axes) and len(many.legends[0].get_texts()) == len(MODES)


def test_quantization_compares_all_modes_and_pytorch_at_the_lowest_rate():
    figure = FIGURES["quantization_comparison"](STUDIES["usual"])
    rows = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert rows == ["float32", "dynamic int8", "dynamic_conv int8", "static int8", "PyTorch eager float32"]
    written = [[text.get_text() for text in axis.texts] for axis in figure.axes]
    sizes = ["1,156"] + ["368"] * 3
    assert written == [["0.00"] * 4, sizes, sizes, ["1.30", "1.20", "1.10", "1.00", "4.60"]]
    assert figure.axes[1].get_xlim() == figure.axes[2].get_xlim()
    assert figure.get_suptitle() == "Quantization of the dense model"
    pruned = FIGURES["quantization_comparison"](STUDIES["one pruned rate"])
    assert pruned.get_suptitle() == "Quantization after 95 % global pruning"


def test_of_equal_variants_at_rate_0_one_is_drawn_and_at_another_rate_every_recovery():
    assert len(lowest_rate(summary(recoveries=("none", "finetune")))) == len(MODES)
    pruned = study(rates=(0.5, 0.9), modes=("float32", "static"), recoveries=("none", "finetune"))
    assert len(lowest_rate(pruned.summary)) == 4
    rows = [text.get_text() for text in FIGURES["quantization_comparison"](pruned).axes[0].get_yticklabels()]
    assert rows[:4] == ["as pruned, float32", "as pruned, static int8", "finetune, float32", "finetune, static int8"]


def test_training_history_marks_the_epoch_that_was_kept():
    figure = FIGURES["training_history"](STUDIES["several models and seeds"])
    assert len(figure.axes) == 3 * len(NAMES)
    stars = [line for axis in figure.axes for line in axis.lines if line.get_marker() == "*"]
    assert [list(star.get_xdata()) for star in stars] == [[4] * 3, [4], [4] * 3] * 2  # loss, accuracy
    assert "trained" in FIGURES["training_history"](STUDIES["one pruned rate"]).texts[0].get_text()


def test_training_history_shows_the_mean_and_the_range_of_several_seeds():
    figure = FIGURES["training_history"](study(seeds=(0, 1, 8)))
    accuracy = figure.axes[1]
    (line,) = [line for line in accuracy.lines if line.get_label() == "validation"]
    assert line.get_ydata() == pytest.approx([77] * 5)  # 80, 79 and 72
    heights = accuracy.collections[1].get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((72, 80))
    assert "3 seeds" in figure.legends[0].get_title().get_text()
    assert not FIGURES["training_history"](study()).axes[1].collections


def points_of(*rows):
    """Return points as `front` takes them; rows: cost, its interval half as wide, loss, and its interval."""
    names = ("cost_value", "cost_half", "value", "half")
    table = pandas.DataFrame([dict(zip(names, row, strict=True)) for row in rows])
    bounds = {
        f"{name}{end}": table[f"{name}value"] + sign * table[f"{name}half"]
        for name in ("", "cost_")
        for end, sign in (("low", -1), ("high", 1))
    }
    return table.assign(**bounds)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([(1000, 0, 5, 0.5), (2000, 0, 2, 0.5), (3000, 0, 3, 0.5), (4000, 0, 0, 0.5)], [0, 1, 3]),
        ([(9900, 0, 5, 0.5), (9999, 0, 1, 0.5)], [1]),  # 99 bytes less are no point of the front
        ([(9900, 0, 1, 0.5), (9999, 0, 5, 0.5)], [0]),
        ([(1, 0.2, 5, 0.5), (1.3, 0.2, 1, 0.5)], [1]),  # times whose intervals meet
        ([(1000, 0, 1, 0.5), (2000, 0, 0.8, 0.5)], [0]),  # losses that cannot be told apart
        ([(1000, 0, 1, 0.5), (2000, 0, 0.8, 0.5), (3000, 0, 0.4, 0.5)], [0, 2]),
        ([(1000, 0, 1, 0.5), (1000, 0, 1, 0.5)], [0]),
    ],
)
def test_a_point_of_the_front_loses_clearly_less_than_all_cheaper_ones(rows, expected):
    assert front(points_of(*rows)) == expected


def test_the_front_ends_where_rounding_puts_a_mean_above_all_of_which_it_is_the_mean():
    points = points_of((1000, 0, 0.1, 0))
    points["value"] += numpy.spacing(0.1)
    assert front(points) == [0]


def ring_of(axis):
    (ring,) = [line for line in axis.lines if line.get_label().startswith("loses clearly less")]
    return ring


def test_pareto_rings_and_names_the_front_and_joins_the_rates_in_order():
    of = study(rates=(0.9, 0.0, 0.5), modes=("float32", "static"))
    size, time = FIGURES["pareto"](of).axes
    assert size.get_xlabel() == "packed size (kB)" and time.get_xlabel() == "time per image (ms)"
    # Of float32 none but the rate of 0.9 is smaller than some of these, and static at 0.5 is smaller still and better.
    assert list(ring_of(size).get_xdata()) == pytest.approx([69.92, 202.4, 368])
    named = ["global 90 %, static int8", "global 50 %, static int8", "dense, static int8"]
    assert [text.get_text() for text in size.texts] == named
    assert [text.get_text() for text in time.texts] == ["dense, static int8"]  # zeros cost as much time
    assert lines_of(size.figure) == ["float32", "static int8", "global", "local", ring_of(size).get_label()]
    curves = [line for line in time.lines if line.get_linestyle() != "None" and len(line.get_xdata()) == 3]
    assert len(curves) == 2 * len(SCOPES)
    for curve in curves:
        assert list(curve.get_ydata()) == sorted(curve.get_ydata())
    assert "against resnet20/seed0/dense-float32.onnx (85.0 %)" in title_of(size.figure)


def test_the_front_is_of_all_recoveries():
    of = study(modes=("float32",), scopes=("global",), recoveries=("none", "finetune"))
    axes = FIGURES["pareto"](of).axes
    assert [axis.get_title() for axis in axes] == ["resnet20, as pruned"] * 2 + ["resnet20, finetune"] * 2
    sizes = [list(ring_of(axis).get_xdata()) for axis in axes[::2]]
    assert sizes == [pytest.approx([1156]), pytest.approx([219.64, 635.8])]  # finetune is better where pruned


def test_pareto_shows_intervals_while_they_can_be_told_apart():
    few, many = (FIGURES["pareto"](study(rates=rates)).axes for rates in ((0.5,), NINE))
    assert all(axis.collections for axis in few) and not any(axis.collections for axis in many)


def layer_table(rows):
    """Return the rows of a sensitivity.csv of 100 images of which 90 are right: layer, rate, correct, global share."""
    named = [dict(zip(("layer", "rate", "correct", "global_share"), row, strict=True)) for row in rows]
    return pandas.DataFrame(named).assign(dense_correct=90, images=100)


def test_sensitivities_are_means_over_the_seeds_in_the_order_of_the_layers():
    first = layer_table([("z.weight", 0.5, 80, 0.25), ("a.weight", 0.5, 90, 0.75)])
    second = layer_table([("z.weight", 0.5, 70, 0.35), ("a.weight", 0.5, 92, 0.65)])
    lost, taken = tables(pandas.concat([first, second]))
    assert list(lost.index) == list(taken.index) == ["z.weight", "a.weight"]
    assert lost[0.5].tolist() == pytest.approx([15, -1])
    assert taken[0.5].tolist() == pytest.approx([30, 70])


@pytest.mark.parametrize(
    ("blocks", "shares", "words"),
    [
        (3, (0.25, 0.5, 0.5), "-0.87, global pruning spares the layers that lose most"),
        (3, (0.5, 0.5, 0.25), "0.87, global pruning takes most from the layers that lose most"),
        (3, (0.25, 0.5, 0.25), "0.00, no clear order in 9 layers"),
        (1, (0.25, 0.5, 0.5), "-0.87, no clear order in 3 layers"),
    ],
)
def test_the_explanation_says_whether_global_pruning_spares_the_sensitive_layers(blocks, shares, words):
    rows = [
        (f"{block}.{name}", rate, 90 - loss * rate / 0.5, share * rate / 0.5)
        for block in range(blocks)
        for name, loss, share in zip("abc", (20, 10, 0), shares, strict=True)
        for rate in (0.25, 0.5)
    ]
    assert explanation(*tables(layer_table(rows))).endswith(f": {words}.")


def test_layers_that_all_lose_the_same_have_no_order():
    assert explanation(*tables(layer_table([("a", 0.5, 80, 0.9), ("b", 0.5, 80, 0.1)]))) == ""


def test_sensitivity_grows_with_the_layers_and_writes_each_number_while_there_is_room():
    small, large = (FIGURES["sensitivity"](study(layers=layers)) for layers in (10, 60))
    assert large.get_figheight() - small.get_figheight() == pytest.approx(50 * 0.19)
    loss, share = large.axes[:2]
    assert len(loss.texts) == len(share.texts) == 60 * 2
    assert [text.get_text() for text in loss.get_yticklabels()][:2] == ["stage0.0.conv", "stage0.1.conv"]
    assert loss.texts[1].get_text() == "58" and share.texts[-1].get_text() == "90"
    table = study().sensitivity
    named = study()._replace(sensitivity=table.assign(layer="encoder." * 6 + table["layer"]))
    labels = [text.get_text() for text in FIGURES["sensitivity"](named).axes[0].get_yticklabels()]
    assert labels[-1].endswith("encoder.stage2.1.conv") and max(map(len, labels)) == 40
    crowded = FIGURES["sensitivity"](study(rates=tuple(rate / 25 for rate in range(25)))).axes[0]
    assert not crowded.texts and len(crowded.get_xticks()) == 12


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.01234, "0.0123"), (0.947, "0.947"), (1.2749, "1.27"), (81.04, "81.0"), (1156, "1,156"), (100, "100")],
)
def test_digits(value, text):
    assert digits(value) == text
    assert value == 0 or math.isclose(float(text.replace(",", "")), value, rel_tol=0.005)


def test_every_figure_has_a_caption():
    for name in FIGURES:
        caption = (
            REPOSITORY / "workflow" / "report" / f"{re.sub('^(local|global|channel)_pruning', 'pruning', name)}.rst"
        )
        assert len(caption.read_text().split()) > 50


def test_plotting_needs_neither_torch_nor_onnxruntime_nor_a_display():
    code = "import plot, sys; print(sorted({'torch', 'onnxruntime', 'matplotlib.pyplot'} & sys.modules.keys()))"
    found = python(code)
    assert found.stdout.strip() == "[]", found.stderr
