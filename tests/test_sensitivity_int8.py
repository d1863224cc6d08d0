"""Which layers int8 harms: one that was made hard to round is found, in numbers, words and the choice of mixed."""

import csv
import json
import pathlib

import numpy
import pytest
import torch
from networks import images, lively, torch_logits
from test_calibrate import split
from test_float32_layers import Kinds
from test_quantize import exported

import time_layers
from elagage.data import Split
from elagage.errors import RefusedError, UserError
from elagage.int8_harm import in_words, joined_layers
from elagage.modes import MINMAX, chosen_calibration
from elagage.pytorch.checkpoints import save_checkpoint
from elagage.statistics import loads_interval
from elagage.timing import LOADS, Times
from mix import fewest, mix, most_harmful, points_lost
from sensitivity_int8 import sensitivity_int8

HARD = "grouped.weight"


def hard() -> Kinds:
    """Return a network that is sure of its classes, and of whose grouped convolution rounding leaves little."""
    torch.manual_seed(0)
    network = lively(Kinds())
    with torch.no_grad():
        network.grouped.weight[:, 0] *= 300  # the others fall between two levels
        network.widening.weight[::4] /= 300
        network.widening.bias[::4] /= 300
        network.linear.weight *= 20
        network.linear.bias -= torch.from_numpy(torch_logits(network, images(40, seed=2)).mean(0))
    return network


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("hard")
    save_checkpoint(folder / "dense.safetensors", hard().state_dict(), {"model": "toy", "seed": 0})
    (folder / "graph.onnx").write_bytes(exported(Kinds))
    measured(folder, folder / "sensitivity_int8.csv")
    return folder


def measured(folder: pathlib.Path, output: pathlib.Path, count: int | None = None) -> list[dict]:
    sensitivity_int8(
        str(folder / "graph.onnx"),
        str(folder / "dense.safetensors"),
        training=split(40, 2),
        validation=split(30, 3),
        calibration=MINMAX,
        images=count,
        threads=1,
        output=str(output),
    )
    with output.open(newline="") as file:
        return list(csv.DictReader(file))


def rows(folder: pathlib.Path) -> list[dict]:
    with (folder / "sensitivity_int8.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_layer_that_is_hard_to_round_is_the_most_harmful(folder):
    found = rows(folder)
    assert {row["layer"] for row in found} >= {"stem.weight", "depthwise.weight", HARD, "linear.weight"}
    assert {row["images"] for row in found} == {"30"}
    assert len({row["all_divergence"] for row in found}) == 1
    harm = {row["layer"]: float(row["alone_divergence"]) for row in found}
    assert max(harm, key=harm.get) == HARD
    without = {row["layer"]: float(row["without_divergence"]) for row in found}
    assert min(without, key=without.get) == HARD
    assert without[HARD] < 0.5 * float(found[0]["all_divergence"])


def test_two_runs_write_the_same(folder, tmp_path):
    measured(folder, tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == (folder / "sensitivity_int8.csv").read_bytes()


def test_only_the_most_harmful_layers_are_measured_in_float32(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("sensitivity_int8.SHOWN", 2)
    found, of_all = measured(folder, tmp_path / "some.csv"), {row["layer"]: row for row in rows(folder)}
    harmful = sorted(of_all, key=lambda layer: -float(of_all[layer]["alone_divergence"]))[:2]
    for row in found:
        if row["layer"] in harmful:
            assert row == of_all[row["layer"]]
        else:
            assert row == of_all[row["layer"]] | {"without_divergence": "", "without_changed": ""}
    joined = joined_layers([*numbers(folder), *numbers_of(found, seed="1")])
    assert [row["without_divergence"] for row in joined] == [row["without_divergence"] for row in numbers(folder)]


def test_more_images_than_there_are_is_an_error(folder, tmp_path):
    assert measured(folder, tmp_path / "few.csv", 10)[0]["images"] == "10"
    with pytest.raises(UserError, match=r"sensitivity\.images: 31.* 30"):
        measured(folder, tmp_path / "many.csv", 31)


def numbers(folder: pathlib.Path) -> list[dict]:
    return numbers_of(rows(folder), seed="0")


def numbers_of(found: list[dict], seed: str) -> list[dict]:
    return [
        {"seed": seed}
        | {name: text if name in ("layer", "kind") else float(text or "nan") for name, text in row.items()}
        for row in found
    ]


def test_words_name_the_layer(folder):
    words = in_words(joined_layers(numbers(folder)))
    assert "of 30 validation images are classified otherwise. grouped (grouped Conv 1x1) harms most" in words
    assert "with only it in float32, the divergence is" in words
    same = [{**row, "without_divergence": row["all_divergence"]} for row in numbers(folder)]
    assert "in float32, the divergence stays" in in_words(joined_layers(same))
    nothing = [{**row, "alone_divergence": 0.0, "all_changed": 0} for row in numbers(folder)]
    assert in_words(nothing).endswith(
        "0 of 30 validation images are classified otherwise, and no layer alone changes anything."
    )


def test_seeds_are_joined_by_their_mean(folder):
    found = numbers(folder)
    twice = joined_layers([*found, *({**row, "seed": "1", "alone_divergence": 0.0} for row in found)])
    assert [row["layer"] for row in twice] == [row["layer"] for row in found]
    assert [2 * row["alone_divergence"] for row in twice] == [row["alone_divergence"] for row in found]


def test_what_is_of_all_layers_is_the_mean_of_the_seeds_whichever_layers_they_round(folder):
    found = numbers(folder)
    other = [{**row, "seed": "1", "all_changed": row["all_changed"] + 8, "images": 50.0} for row in found[:2]]
    joined = joined_layers([*found, *other])
    assert len(joined) == len(found)
    assert {row["all_changed"] for row in joined} == {found[0]["all_changed"] + 4}
    assert {row["images"] for row in joined} == {40.0}


def mixed(folder: pathlib.Path, tmp_path: pathlib.Path, margin: float, slow: list[str]) -> dict:
    """Return what mix writes, for labels that are the float32 network's own classes."""
    (tmp_path / "times.json").write_text(json.dumps({"float32": slow}))
    pixels = images(30, seed=3)
    mix(
        str(folder / "graph.onnx"),
        str(folder / "dense.safetensors"),
        training=split(40, 2),
        validation=Split(pixels, torch_logits(hard(), pixels).argmax(1)),
        calibration=MINMAX,
        sensitivity=str(folder / "sensitivity_int8.csv"),
        times=str(tmp_path / "times.json"),
        margin=margin,
        threads=1,
        output=str(tmp_path / "mixed.json"),
    )
    return json.loads((tmp_path / "mixed.json").read_text())


def test_layers_stay_float32_until_the_loss_is_within_half_of_the_margin(folder, tmp_path):
    strict = mixed(folder, tmp_path, 1, [])
    assert strict["float32"] == strict["for_accuracy"]
    assert strict["float32"][0] == HARD
    assert strict["points_lost"]["0"] > 0.5
    assert strict["points_lost"][str(len(strict["float32"]))] <= 0.5
    assert chosen_calibration(tmp_path / "mixed.json").float32 == tuple(strict["float32"])
    generous = mixed(folder, tmp_path, 100, [])
    assert generous["float32"] == [] and generous["points_lost"].keys() == {"0"}


def test_layers_that_int8_makes_slower_stay_float32_too(folder, tmp_path):
    written = mixed(folder, tmp_path, 100, ["depthwise.weight", "a layer of another network"])
    assert written["for_time"] == written["float32"] == ["depthwise.weight"]
    assert written["for_accuracy"] == []


def test_a_network_that_cannot_have_any_layer_in_int8_is_refused(folder, tmp_path):
    everything = [row["layer"] for row in rows(folder)]
    with pytest.raises(RefusedError, match="mixed: whichever layers are int8"):
        mixed(folder, tmp_path, 1, everything)


def test_harmful_layers_come_first(folder):
    order, harm = most_harmful(str(folder / "sensitivity_int8.csv")), {row["layer"]: row for row in rows(folder)}
    found = [float(harm[name]["alone_divergence"]) for name in order]
    assert found == sorted(found, reverse=True) and order[0] == HARD


def test_a_loss_within_a_standard_error_is_none():
    before, after = numpy.ones(400, bool), numpy.ones(400, bool)
    assert points_lost(before, after) == 0
    after[:4] = False  # 1 point, of which half is the standard error
    assert points_lost(before, after) == pytest.approx(0.5, abs=0.01)
    assert points_lost(after, before) == pytest.approx(-1.5, abs=0.01)


@pytest.mark.parametrize(("needed", "most"), [(0, 9), (1, 9), (5, 9), (9, 9), (3, 3), (1, 1)])
def test_as_few_layers_as_suffice_are_found_in_few_steps(needed, most):
    count, losses = fewest(lambda kept: 5.0 if kept < needed else 0.4, most, 0.5)
    assert count == needed
    assert len(losses) <= 1 + most.bit_length()


def test_kinds_are_left_one_by_one_as_long_as_one_makes_the_file_clearly_faster(folder, tmp_path, monkeypatch):
    """Times that are made up: a depthwise convolution takes 30 in int8 and 20 else, any other layer 10 and 20."""

    def timed(files, pixels, threads):
        generator, times = numpy.random.default_rng(0), {}
        for name, model in files.items():
            weights = {tensor.name for tensor in model.graph.initializer}
            cost = sum(
                20 if kept in weights else 10 for kept in ("stem.weight", HARD, "linear.weight", "tokens.weight")
            )
            cost += 20 if "depthwise.weight" in weights else 30
            wall = (1e3 * cost * generator.uniform(0.999, 1.001, (LOADS, 10))).astype(int)
            times[name] = Times(wall, wall)
        return times

    monkeypatch.setattr("time_layers.timed", timed)
    time_layers.time_layers(
        *(str(folder / name) for name in ("graph.onnx", "dense.safetensors")),
        **{"training": split(40, 2), "calibration": MINMAX, "threads": 1, "output": str(tmp_path / "times.json")},
    )
    written = json.loads((tmp_path / "times.json").read_text())
    assert written["kinds"] == ["depthwise Conv 3x3"]
    assert written["float32"] == ["depthwise.weight"]
    assert written["rounds"][0]["depthwise Conv 3x3"]["mean"] == pytest.approx(7 / 6, rel=0.01)
    assert len(written["rounds"]) == 2
    assert written["cpu"]


def test_the_layers_of_a_real_file_are_timed(folder, tmp_path):
    time_layers.time_layers(
        *(str(folder / name) for name in ("graph.onnx", "dense.safetensors")),
        **{"training": split(40, 2), "calibration": MINMAX, "threads": 1, "output": str(tmp_path / "times.json")},
    )
    written = json.loads((tmp_path / "times.json").read_text())
    assert {"first Conv 3x3", "grouped Conv 1x1", "Gemm"} <= written["rounds"][0].keys()
    assert all(row["low"] <= row["mean"] <= row["high"] for found in written["rounds"] for row in found.values())
    layers = {row["layer"] for row in rows(folder)}
    assert {*written["float32"]} <= layers
    assert loads_interval(numpy.ones(3))[0] == 1
