"""The choice of a calibration: what it rests on, and what is taken when little or nothing is gained."""

import json
import pathlib
from collections.abc import Sequence

import numpy
import onnx
import pytest
import torch
from networks import NoWeights, ReusedBlock, images, lively, onnx_logits, torch_logits
from test_float32_layers import Kinds
from test_quantize import exported, float_model
from torch import nn

from calibrate import NEGLIGIBLE, calibrate, choose, usual_first
from elagage.data import Split
from elagage.errors import RefusedError, UserError
from elagage.modes import CALIBRATIONS, MINMAX, OPERATORS, Calibration, chosen_calibration
from elagage.onnx.calibration import ranges_by
from elagage.onnx.divergence import Answers
from elagage.onnx.quantization import quantize
from elagage.pytorch.checkpoints import save_checkpoint


@pytest.mark.parametrize(
    ("divergences", "chosen"),
    [
        ({"all": {"minmax": 0.01, "mse": 0.0095}, "weighted": {"minmax": 0.02}}, ("minmax", "all")),
        ({"all": {"minmax": 0.01, "mse": 0.005}, "weighted": {"minmax": 0.02}}, ("mse", "all")),
        ({"all": {"minmax": 0.01, "mse": 0.009}, "weighted": {"minmax": 0.006, "mse": 0.004}}, ("mse", "weighted")),
        ({"all": {"minmax": 0.01}, "weighted": {"minmax": 0.006}}, ("minmax", "all")),
        ({"all": {"minmax": 0.0008}, "weighted": {}}, ("minmax", "all")),
        ({"all": {}, "weighted": {"minmax": 0.1, "entropy": 0.01}}, ("entropy", "weighted")),
        ({"all": {"minmax": 0.0, "mse": 0.0}, "weighted": {"minmax": 0.0}}, ("minmax", "all")),
        ({"all": {}, "weighted": {}}, MINMAX),
    ],
)
def test_something_else_than_usual_is_taken_if_answers_change_clearly_less(divergences, chosen):
    assert choose(divergences)[:2] == chosen[:2]


def split(count: int, seed: int) -> Split:
    return Split(images(count, seed=seed), numpy.zeros(count, numpy.int64))


def sure() -> ReusedBlock:
    """Return a network whose classes differ between images, and whose probabilities move far when logits do."""
    torch.manual_seed(0)
    network = lively(ReusedBlock())
    with torch.no_grad():
        network.linear.weight *= 50
        network.linear.bias -= torch.from_numpy(torch_logits(network, images(40, seed=2)).mean(0))
    return network


def chosen(folder: pathlib.Path, network: nn.Module, methods: Sequence[str] = CALIBRATIONS) -> dict:
    """Return what is written of a network, from 40 images for training and 30 for validation."""
    save_checkpoint(folder / "dense.safetensors", network.state_dict(), {"model": "toy", "seed": 0})
    (folder / "graph.onnx").write_bytes(exported(type(network)))
    calibrate(
        str(folder / "graph.onnx"),
        str(folder / "dense.safetensors"),
        training=split(40, 2),
        validation=split(30, 3),
        methods=methods,
        threads=1,
        output=str(folder / "calibration.json"),
    )
    return json.loads((folder / "calibration.json").read_text())


def log_probabilities(model: onnx.ModelProto, pixels: numpy.ndarray) -> numpy.ndarray:
    logits = onnx_logits(model, pixels).astype(float)
    return logits - numpy.log(numpy.exp(logits).sum(1, keepdims=True))


def test_the_choice_is_written_with_the_divergences_that_files_of_that_calibration_have(tmp_path):
    written = chosen(tmp_path, sure())
    assert written["images"] == 30
    assert written["divergence"].keys() == OPERATORS.keys()
    assert all(tuple(found) == CALIBRATIONS for found in written["divergence"].values())
    assert choose(written["divergence"]) == (written["method"], written["operators"], ())
    float32, pixels = float_model(sure(), ReusedBlock), images(30, seed=3)
    expected = log_probabilities(float32, pixels)
    for operators, method in (("all", "minmax"), ("all", "percentile_99.9"), ("weighted", "mse")):
        int8 = quantize(float32, "static", images(40, seed=2), calibration=Calibration(method, operators))
        divergence = (numpy.exp(expected) * (expected - log_probabilities(int8, pixels))).sum(1).mean()
        assert written["divergence"][operators][method] == pytest.approx(divergence, rel=0.06)


def test_of_attention_layers_with_weights_are_the_usual():
    assert usual_first(float_model(lively(Kinds()), Kinds)) == ["weighted", "all"]
    assert usual_first(float_model(lively(ReusedBlock()), ReusedBlock)) == ["all", "weighted"]


def test_two_runs_write_the_same(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    assert chosen(tmp_path / "a", sure()) == chosen(tmp_path / "b", sure())


def test_where_hardly_an_answer_changes_nothing_else_is_tried(tmp_path):
    torch.manual_seed(0)
    written = chosen(tmp_path, lively(ReusedBlock()))
    assert (written["method"], written["operators"], ()) == MINMAX
    [(method, divergence)] = written["divergence"]["all"].items()
    assert method == "minmax"
    assert divergence <= NEGLIGIBLE
    assert written["divergence"]["weighted"] == {}


def test_of_a_network_that_cannot_be_int8_nothing_is_chosen(tmp_path):
    written = chosen(tmp_path, lively(NoWeights()))
    assert written["divergence"] == {"all": {}, "weighted": {}}
    assert chosen_calibration(tmp_path / "calibration.json") == MINMAX


def test_a_network_whose_logits_are_no_numbers_is_refused():
    network = lively(ReusedBlock())
    with torch.no_grad():
        next(network.parameters())[0] = torch.nan
    with pytest.raises(RefusedError, match="logits are not finite"):
        Answers(float_model(network, ReusedBlock), images(4), 1)


def test_a_method_that_the_network_rules_out_is_not_chosen_and_stops_nothing(tmp_path, monkeypatch):
    def refuse_mse(method: str, found: dict) -> dict:
        if method == "mse":
            raise RefusedError("no range")
        return ranges_by(method, found)

    monkeypatch.setattr("calibrate.ranges_by", refuse_mse)
    written = chosen(tmp_path, sure())
    assert all({*CALIBRATIONS} - {*found} == {"mse"} for found in written["divergence"].values())


@pytest.mark.parametrize("method", ["minmax", "entropy"])
def test_a_method_that_the_configuration_names_is_taken_with_the_operators_that_harm_less(method, tmp_path):
    written = chosen(tmp_path, sure(), methods=[method])
    assert written["method"] == method
    assert all(list(found) == [method] for found in written["divergence"].values())
    assert choose(written["divergence"]) == (written["method"], written["operators"], ())


def test_what_was_chosen_is_read_from_its_file(tmp_path):
    (tmp_path / "calibration.json").write_text('{"method": "mse", "operators": "weighted", "float32": ["conv"]}')
    assert chosen_calibration(tmp_path / "calibration.json") == ("mse", "weighted", ("conv",))


def test_a_damaged_choice_is_named(tmp_path):
    (tmp_path / "calibration.json").write_text("{}")
    with pytest.raises(UserError, match=r"calibration\.json: damaged"):
        chosen_calibration(tmp_path / "calibration.json")
