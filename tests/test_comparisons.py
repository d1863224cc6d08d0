"""What a study says of its methods: knees, and local against global pruning."""

import numpy
import pandas
import pytest

from elagage import sentences
from elagage.comparisons import knees, recoveries, scopes

IMAGES = 1000
RATES = (0.5, 0.7, 0.9)


def test_a_knee_is_where_bounds_leave_the_margin_from_either_side():
    rows = [(0.2, -0.1, 0.3), (0.4, 0.1, 0.9), (0.6, 0.5, 1.5), (0.8, 2.0, 3.0), (0.9, 1.5, 4.0)]
    named = {"model": "net", "seed": 0, "scope": "local", "recovery": "none", "mode": "static"}
    files = [named | {"rate": rate, "file": str(rate)} for rate, *_ in rows]
    bounds = pandas.DataFrame(rows, columns=["rate", "loss_low", "loss_high"]).astype({"rate": str}).set_index("rate")
    (knee,) = knees(files, bounds, 1.0)
    assert (knee["within_up_to"], knee["beyond_from"]) == (0.4, 0.8)
    refused = [row for row in files if row["rate"] != 0.2]
    (knee,) = knees(files, bounds.drop("0.2"), 1.0)
    assert knee["within_up_to"] is None  # nothing is said of rates above one that was refused
    assert knees(refused, bounds, 1.0)[0]["within_up_to"] == 0.4
    (knee,) = knees(files, bounds, 0.2)
    assert (knee["within_up_to"], knee["beyond_from"]) == (None, 0.6)


def wrong_on(first: int, last: int) -> numpy.ndarray:
    """Return which images are correct: all but these."""
    correct = numpy.ones(IMAGES, bool)
    correct[first:last] = False
    return correct


def pairs(seeds: int, local: dict, global_: dict) -> tuple[list[dict], dict]:
    """Return variants of both scopes, and of each file which images are correct; rate -> number of wrong images."""
    variants, correct = [], {}
    for seed in range(seeds):
        for scope, wrong in (("local", local), ("global", global_)):
            for rate in RATES:
                row = {"model": "net", "seed": seed, "scope": scope, "rate": rate, "recovery": "none", "mode": "static"}
                row["file"] = f"{seed}/{scope}/{rate}"
                variants.append(row)
                if rate in wrong:
                    correct[row["file"]] = wrong_on(seed, seed + wrong[rate] + seed % 2)
    return variants, correct


def test_two_files_are_told_apart_by_the_images_on_which_they_differ():
    found = scopes(*pairs(1, {0.5: 20, 0.7: 26, 0.9: 200}, {0.5: 20, 0.7: 20, 0.9: 100}))
    [row] = found
    assert (row["model"], row["recovery"], row["mode"], row["seeds"]) == ("net", "none", "static", [0])
    assert [rate["points"] for rate in row["rates"]] == pytest.approx([0, 0.6, 10])
    # McNemar's exact test of 6 images, all of which one scope loses, is 2 / 2**6; Holm's has two p-values above it.
    assert [rate["p_value"] for rate in row["rates"]] == pytest.approx([1, 2 * 2 / 2**6, 0], abs=1e-9)
    assert [rate["fewer"] for rate in row["rates"]] == [None, None, "global"]
    assert sentences.scopes(row) == (
        "as pruned, static (file against file, seed 0): global pruning loses less at 90% (10.00 points); at "
        "the other rates no difference is shown."
    )


def test_two_seeds_are_told_by_themselves_and_three_by_their_mean():
    wrong = {0.5: 20, 0.7: 30, 0.9: 100}, {0.5: 40, 0.7: 30, 0.9: 300}
    assert [row["seeds"] for row in scopes(*pairs(2, *wrong))] == [[0], [1]]
    [row] = scopes(*pairs(3, *wrong))
    assert row["seeds"] == [0, 1, 2]
    assert [rate["fewer"] for rate in row["rates"]] == ["local", None, "local"]
    assert "local pruning loses less at 50%, 90% (up to 20.00 points at 90%)" in sentences.scopes(row)
    assert "mean of seeds 0, 1, 2" in sentences.scopes(row)


def test_the_mean_of_seeds_needs_more_than_a_difference_that_varies_as_much():
    variants, correct = pairs(3, dict.fromkeys(RATES, 20), dict.fromkeys(RATES, 20))
    for seed, wrong in enumerate((10, 20, 60)):
        correct[f"{seed}/global/0.7"] = wrong_on(0, wrong)
    [row] = scopes(variants, correct)
    [rate] = (rate for rate in row["rates"] if rate["rate"] == 0.7)
    assert rate["low"] < rate["points"] < 0 < rate["high"]
    assert rate["fewer"] is None
    assert "at no rate is a difference" in sentences.scopes(row)


def test_three_seeds_that_are_equal_by_chance_are_not_certain():
    """Each loses the same one image more; the images alone would vary by as much."""
    variants, correct = pairs(3, dict.fromkeys(RATES, 20), dict.fromkeys(RATES, 21))
    [row] = scopes(variants, correct)
    assert [rate["points"] for rate in row["rates"]] == pytest.approx([-0.1] * 3)
    assert [rate["fewer"] for rate in row["rates"]] == [None] * 3
    assert all(rate["low"] < -0.1 < 0 < rate["high"] for rate in row["rates"])


def test_what_longer_training_gains_is_told_in_float32_whatever_the_mode():
    named = {"model": "net", "seed": 0, "scope": "local", "mode": "static", "rate": 0.5, "recovery": "finetune"}
    variants = [named | {"file": "pruned"}]
    files = [{"file": "pruned", "control": "control/finetune/1-static.onnx"}]
    columns = [f"{loss}_{name}" for loss in ("control_loss", "dense_loss") for name in ("points", "low", "high")]
    rows = [[0.2, 0.1, 0.4, 9, 9, 9], [9, 9, 9, -0.3, -0.5, -0.1]]
    table = pandas.DataFrame(rows, columns=columns, index=["pruned", "control/finetune/1-float32.onnx"])
    [found] = recoveries(files, variants, table, 1.0)
    assert found["longer"] == {
        "file": "control/finetune/1-float32.onnx",
        "points": -0.3,
        "low": -0.5,
        "high": -0.1,
    }


def test_a_refused_file_is_compared_with_nothing():
    [row] = scopes(*pairs(1, {0.5: 20, 0.9: 50}, {0.5: 20, 0.7: 20}))
    assert [rate["rate"] for rate in row["rates"]] == [0.5]
    assert scopes(*pairs(1, {}, {0.5: 20})) == []


def test_curves_without_a_control_have_no_knee_against_it():
    named = {"model": "net", "seed": 0, "scope": "local", "mode": "static", "rate": 0.5}
    variants = [named | {"recovery": name, "file": name} for name in ("none", "finetune")]
    bounds = {"control_loss_low": [numpy.nan, 0.1], "control_loss_high": [numpy.nan, 0.4]}
    table = pandas.DataFrame(bounds, index=["none", "finetune"])
    assert [row["recovery"] for row in knees(variants, table, 1.0, "control_loss")] == ["finetune"]


def test_a_knee_is_told_in_words():
    row = {"scope": "global", "recovery": "none", "mode": "float32", "within_up_to": 0.5, "beyond_from": 0.7}
    assert (
        sentences.knee(row, "1 point")
        == "global, as pruned, float32: shown to lose less than 1 point up to 50%, and more than that from 70% on."
    )
    row |= {"within_up_to": None, "beyond_from": None}
    assert sentences.knee(row, "1 point").endswith("less than 1 point at no rate, and more than that at no rate.")


@pytest.mark.parametrize(
    ("bounds", "words"),
    [((-0.3, -0.5, 0.2), "gains 0.30 points [-0.20, 0.50]"), ((0.3, 0.1, 0.5), "loses 0.30 points [0.10, 0.50]")],
)
def test_bounds_of_a_gain_are_gains(bounds, words):
    row = {"scope": "local", "recovery": "finetune", "mode": "float32", "within_up_to": 0.5, "beyond_from": None}
    row["longer"] = dict(zip(("points", "low", "high"), bounds, strict=True))
    assert sentences.recovery(row, "1 point").endswith(f"By that training alone the dense network {words}.")
