"""Figures: each can be drawn for every kind of study, says its units, and can be read in grey."""

import itertools
import math
import pathlib
import re
import subprocess
import sys

import numpy
import pandas
import pytest
from PIL import Image

from elagage.errors import UserError
from elagage.plots import COLORS, FIGURES, METRICS, Study, digits, estimates, line_styles, metric, not_dominated
from plot import plot, read_study

REPOSITORY = pathlib.Path(__file__).parents[1]
SCOPES = ("local", "global")
MODES = ("none", "dynamic", "dynamic_conv", "static")
UNIT = re.compile(r"\((%|ms|kB|MB|nats|dense fp32 = 1)\)$")


def summary(models=("resnet20",), seeds=(0,), scopes=SCOPES, rates=(0.0, 0.5, 0.9), modes=MODES, recoveries=("none",)):
    """Return a summary in which accuracy falls with the rate, and int8 is small; the seeds differ by 0.01."""
    rows = []
    variants = itertools.product(enumerate(models), seeds, scopes, rates, recoveries, enumerate(modes))
    for (place, model), seed, scope, rate, recovery, (number, mode) in variants:
        accuracy = 0.85 - 0.5 * rate**3 - 0.01 * seed - 0.05 * place - (0.1 * rate if scope == "local" else 0)
        time = (1 + place) * (1.3 - 0.1 * number)
        rows.append(
            {"model": model, "seed": seed, "scope": scope, "rate": rate, "recovery": recovery, "mode": mode}
            | {"accuracy": accuracy, "accuracy_low": accuracy - 0.02, "accuracy_high": accuracy + 0.02}
            | {"model_size_bytes": 1_156_000 if mode == "none" else 368_000}
            | {"inference_time_ms": time, "inference_time_low_ms": 0.9 * time, "inference_time_high_ms": 1.1 * time}
            | {"dense_time_ms": 1.0, "speedup": 1 / time, "speedup_low": 0.9 / time, "speedup_high": 1.1 / time}
            | {"eager_time_ms": 4.6, "eager_time_low_ms": 4.5, "eager_time_high_ms": 4.8}
        )
    return pandas.DataFrame(rows)


def history(epochs=5):
    """Return the epochs of one training; the last but one is the best."""
    epoch = numpy.arange(1, epochs + 1)
    columns = {"epoch": epoch, "learning_rate": 0.1 / epoch, "train_loss": 2 / epoch, "train_accuracy": 1 - 0.5 / epoch}
    best = epoch == max(1, epochs - 1)
    return pandas.DataFrame(columns | {"validation_loss": 2.2 / epoch, "validation_accuracy": 0.8, "best": best})


def study(models=("resnet20",), trained=True, epochs=5, **settings):
    """Return a study whose models are all trained, or came with their weights."""
    table = summary(models, **settings)
    keys = table[["model", "seed"]].drop_duplicates().itertuples(index=False)
    histories = [history(epochs).assign(model=key.model, seed=key.seed) for key in keys if trained]
    return Study(table, pandas.concat(histories) if histories else pandas.DataFrame())


NAMES = ("my.net-2", "NA", "a_network_whose_name_is_far_too_long_for_the_title_of_a_panel_v2")
STUDIES = {
    "usual": study(),
    "one of each": study(scopes=("local",), rates=(0.0,), modes=("none",), epochs=1),
    "one pruned rate": study(scopes=("global",), rates=(0.95,), modes=("static",), trained=False),
    "several models and seeds": study(NAMES, seeds=(0, 1, 7)),
    "more models than styles": study([f"m{index}" for index in range(8)], scopes=("local",), modes=("none",)),
    "recoveries": study(recoveries=("none", "finetune"), modes=("none", "static")),
    "unknown mode": study(modes=("none", "qat", "int4")),
}
DRAWN = [
    pytest.param(name, of, id=f"{name}, {title}")
    for name, (title, of) in itertools.product(FIGURES, STUDIES.items())
    if "_pruning_" not in name or name.split("_")[0] in set(of.summary["scope"])
]


def lines_of(figure):
    """Return {label: line} of the figure's legend."""
    (legend,) = figure.legends
    return dict(zip([text.get_text() for text in legend.get_texts()], legend.legend_handles, strict=True))


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
def test_axes_start_at_zero_and_accuracies_span_all_that_is_possible(name):
    for axis in FIGURES[name](STUDIES["several models and seeds"]).axes:
        for text, (low, high) in ((axis.get_xlabel(), axis.get_xlim()), (axis.get_ylabel(), axis.get_ylim())):
            if "accuracy (%)" in text:
                assert low == 0 and 100 <= high < 105
            elif "size" in text or "time" in text or text in ("loss (nats)", "learning rate"):
                assert low == 0


def test_the_summary_and_the_histories_are_read_as_they_were_written(tmp_path):
    table = summary(models=("NA", "007", "1e5"), seeds=(0, 3))
    table.to_csv(tmp_path / "summary.csv", index=False)
    trainings = []
    for model, seed in itertools.product(("NA", "007"), (0, 3)):
        trainings.append(tmp_path / "models" / model / f"seed{seed}" / "history.csv")
        trainings[-1].parent.mkdir(parents=True)
        history().to_csv(trainings[-1], index=False)
    with open(tmp_path / "summary.csv", "a") as file:  # as csv.DictWriter writes what could not be measured
        file.write(",".join(["NA", "3", "local", "0.99", "none", "static", "0.1", *["nan", ""] * 4, "1"]) + "\n")
    read = read_study(tmp_path / "summary.csv", trainings)
    assert list(read.summary["model"].unique()) == ["NA", "007", "1e5"]
    assert set(read.summary["recovery"]) == {"none"}
    assert read.summary["accuracy"].dtype == float
    assert {*zip(read.history["model"], read.history["seed"], strict=True)} == {
        *itertools.product(("NA", "007"), (0, 3))
    }
    assert read.history["best"].dtype == bool and read.history["best"].sum() == 4
    assert read_study(tmp_path / "summary.csv", []).history.empty


def test_files_are_large_not_blank_and_the_same_every_time(tmp_path):
    plot(STUDIES["usual"], [tmp_path / f"{name}.png" for name in FIGURES])
    for name in FIGURES:
        first, second = tmp_path / f"{name}.png", tmp_path / "second" / f"{name}.png"
        if name in ("quantization_comparison", "training_history"):
            plot(STUDIES["usual"], [second])
            assert first.read_bytes() == second.read_bytes()
        with Image.open(first) as image:
            assert image.width >= 1000 and image.height >= 400
            assert image.info.keys() == {"dpi"}
            shades = numpy.asarray(image.convert("L"))
        assert shades.min() < 50 and 0.01 < (shades < 250).mean() < 0.5


def test_a_figure_that_does_not_exist_is_refused_by_name_and_leaves_no_file(tmp_path):
    with pytest.raises(UserError, match=r"pareta.*pareto"):
        plot(STUDIES["usual"], [tmp_path / "pareta.png"])
    with pytest.raises(UserError, match=r"pruning.scopes.*global"):
        plot(STUDIES["one of each"], [tmp_path / "global_pruning_accuracy.png"])
    assert not list(tmp_path.iterdir())


def test_modes_differ_in_colour_marker_and_line_and_look_the_same_in_every_study():
    styles = [tuple(map(str, line_styles(summary(), "mode")["none", mode].values())) for mode in MODES]
    for values in zip(*styles, strict=True):
        assert len(set(values)) in (1, len(MODES))  # 1: the fill
    alone = line_styles(summary(modes=("static",)), "mode")
    assert alone == {("none", "static"): line_styles(summary(), "mode")["none", "static"]}


def test_modes_differ_in_luminance():
    def luminance(color):  # WCAG 2
        parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    values = sorted(luminance(color) for color in COLORS[: len(MODES)])
    assert all(high + 0.05 > 1.4 * (low + 0.05) for low, high in itertools.pairwise(values))


@pytest.mark.parametrize(
    "settings", [{"recoveries": ("none", "finetune", "rewind")}, {"modes": (*MODES, "qat", "int4")}]
)
def test_every_line_of_a_figure_has_its_own_label_and_look(settings):
    styles = line_styles(summary(**settings), "mode").values()
    assert len({style["label"] for style in styles}) == len(styles)
    assert len({(style["marker"], style["fillstyle"]) for style in styles}) == len(styles)


@pytest.mark.parametrize("scope", SCOPES)
def test_pruning_draws_a_panel_per_model_a_line_per_mode_and_the_dense_model(scope):
    figure = FIGURES[f"{scope}_pruning_accuracy"](STUDIES["several models and seeds"])
    assert [axis.get_title().replace("\n", "") for axis in figure.axes] == list(NAMES)
    labels = ["dense fp32", "fp32", "dynamic int8", "dynamic_conv int8", "static int8"]
    assert list(lines_of(figure)) == labels
    assert all(scope in axis.get_xlabel() for axis in figure.axes)
    without = FIGURES["global_pruning_accuracy"](STUDIES["one pruned rate"])
    assert list(lines_of(without)) == ["static int8"]


def test_whiskers_are_the_interval_of_one_seed_and_the_range_of_several():
    one = estimates(study(), METRICS["accuracy"])
    assert numpy.allclose(one["value"] - one["low"], 2) and numpy.allclose(one["high"] - one["value"], 2)
    several = estimates(study(seeds=(0, 1, 8)), METRICS["accuracy"])
    assert numpy.allclose(several["value"] - several["low"], 5) and numpy.allclose(
        several["high"] - several["value"], 3
    )
    titles = [
        FIGURES["local_pruning_accuracy"](study(seeds=seeds)).legends[0].get_title().get_text()
        for seeds in ((4,), (0, 1))
    ]
    assert "95 %" in titles[0]
    assert "2 seeds" in titles[1] and "lowest" in titles[1] and "95" not in titles[1]


def test_a_size_has_no_interval_and_a_unit_that_fits():
    table = summary()
    assert metric("model_size", table).label == "model size (kB)"
    assert estimates(Study(table, pandas.DataFrame()), metric("model_size", table))["value"].max() == 1156
    large = table.assign(model_size_bytes=44_700_000)
    assert metric("model_size", large).label == "model size (MB)"
    assert estimates(Study(large, pandas.DataFrame()), metric("model_size", large))["value"].max() == pytest.approx(
        44.7
    )
    assert not FIGURES["local_pruning_model_size"](STUDIES["usual"]).legends[0].get_title().get_text()


def test_local_and_global_are_two_lines_in_fp32_or_the_first_mode():
    figure = FIGURES["local_global_accuracy"](STUDIES["usual"])
    assert list(lines_of(figure)) == ["dense fp32", "global", "local"]
    assert figure.axes[0].get_ylabel() == "fp32 test accuracy (%)"
    quantized = FIGURES["local_global_accuracy"](study(modes=("static", "dynamic")))
    assert quantized.axes[0].get_ylabel() == "static int8 test accuracy (%)"


def test_quantization_compares_all_modes_and_pytorch_at_the_lowest_rate():
    figure = FIGURES["quantization_comparison"](STUDIES["usual"])
    rows = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert rows == ["fp32", "dynamic int8", "dynamic_conv int8", "static int8", "PyTorch eager fp32"]
    written = [[text.get_text() for text in axis.texts] for axis in figure.axes]
    assert written == [["85.0"] * 4, ["1,156"] + ["368"] * 3, ["1.30", "1.20", "1.10", "1.00", "4.60"]]
    assert figure.get_suptitle() == "Quantization of the dense model"
    pruned = FIGURES["quantization_comparison"](STUDIES["one pruned rate"])
    assert pruned.get_suptitle() == "Quantization after 95 % global pruning"


def test_training_history_marks_the_epoch_that_was_kept():
    figure = FIGURES["training_history"](STUDIES["several models and seeds"])
    assert len(figure.axes) == 3 * len(NAMES)
    stars = [line for axis in figure.axes for line in axis.lines if line.get_marker() == "*"]
    assert len(stars) == 2 * 3 * len(NAMES)  # loss and accuracy of 3 seeds
    assert all(list(star.get_xdata()) == [4] for star in stars)
    assert "trained" in FIGURES["training_history"](STUDIES["one pruned rate"]).texts[0].get_text()


def test_not_dominated_by_hand():
    cost, gain = numpy.array([1, 2, 2, 3, 1, 4]), numpy.array([5, 7, 6, 7, 5, 9])
    assert not_dominated(cost, gain) == [True, True, False, False, True, True]


def test_pareto_rings_the_best_and_joins_the_rates_in_order():
    of = study(rates=(0.9, 0.0, 0.5), modes=("none", "static"))
    size, time = FIGURES["pareto"](of).axes
    ring = next(line for line in size.lines if line.get_label() == "not dominated")
    # The dense int8 file, once for each scope: as accurate as fp32 here, and smaller.
    assert list(ring.get_xdata()) == [368, 368] and numpy.allclose(ring.get_ydata(), 85)
    curves = [line for line in time.lines if line.get_label() == "static int8"]
    assert len(curves) == len(SCOPES)
    assert list(lines_of(time.figure)) == ["fp32", "static int8", "global", "local", "not dominated"]
    for curve in curves:
        assert list(curve.get_ydata()) == sorted(curve.get_ydata(), reverse=True)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.01234, "0.0123"), (0.947, "0.947"), (1.2749, "1.27"), (81.04, "81.0"), (1156, "1,156"), (100, "100")],
)
def test_digits(value, text):
    assert digits(value) == text
    assert value == 0 or math.isclose(float(text.replace(",", "")), value, rel_tol=0.005)


def test_every_figure_has_a_caption():
    for name in FIGURES:
        caption = REPOSITORY / "workflow" / "report" / f"{re.sub('^(local|global)_pruning', 'pruning', name)}.rst"
        assert len(caption.read_text().split()) > 50


def test_plotting_needs_neither_torch_nor_onnxruntime_nor_a_display():
    code = (
        "import plot, sys; print(sorted({'torch', 'onnxruntime', 'scipy', 'matplotlib.pyplot'} & sys.modules.keys()))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY / "scripts")
    assert found.stdout.strip() == "[]", found.stderr
