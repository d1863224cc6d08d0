"""Files in OpenVINO: as ONNX Runtime computes them, timed in turn, and columns of the summary."""

import os
import pathlib

import numpy
import onnx
import pandas
import pytest
from test_evaluate import CHANNELS, bright_images, brightest  # noqa: F401
from test_workflow import TINY, finished_study

from elagage.configured_files import check_runtimes
from elagage.data import Split
from elagage.errors import RefusedError, UserError
from elagage.files import read_json, write_refusal
from elagage.measurements import openvino_columns
from elagage.onnx import runtime
from elagage.timing import LOADS

if not os.environ.get("ELAGAGE_REQUIRE_OPENVINO"):
    pytest.importorskip("openvino", reason="not installed: make openvino")

from elagage import openvino_runtime
from evaluate_openvino import evaluate_openvino

LABELS = numpy.arange(60) % 3
IMAGES = bright_images(LABELS)


@pytest.fixture
def network(tmp_path) -> str:
    """A convolution whose products bfloat16 would round, and the mean of each channel."""
    draws = numpy.random.default_rng(0)
    image = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, ["batch", 3, 8, 8])
    logits = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", 3])
    nodes = [
        onnx.helper.make_node("Cast", ["image"], ["float"], to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("Conv", ["float", "weight"], ["convolved"]),
        onnx.helper.make_node("ReduceMean", ["convolved", "axes"], ["logits"], keepdims=0),
    ]
    weight = onnx.numpy_helper.from_array(draws.normal(size=(3, 3, 3, 3)).astype(numpy.float32), "weight")
    axes = onnx.numpy_helper.from_array(numpy.array([2, 3]), "axes")
    graph = onnx.helper.make_graph(nodes, "network", [image], [logits], [weight, axes])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "network.onnx")
    return str(tmp_path / "network.onnx")


def test_float32_is_computed_in_float32_on_every_cpu(network):
    there, here = openvino_runtime.load(network, 1)(IMAGES), runtime.load(network, 1)(IMAGES)
    assert there.shape == here.shape and there.dtype == numpy.float32
    numpy.testing.assert_allclose(there, here, rtol=1e-5, atol=1e-4 * abs(here).max())


def evaluated(file: str, folder: pathlib.Path, predicted: numpy.ndarray, dataset=CHANNELS) -> dict:
    numpy.save(folder / "predicted.npy", predicted.astype(numpy.int32))
    options = {"dense": file, "predicted": folder / "predicted.npy", "threads": 1, "output": folder / "o.json"}
    evaluate_openvino(dataset, Split(IMAGES, LABELS), file, latency_images=IMAGES[:20], **options)
    return read_json(folder / "o.json")


def test_correct_answers_and_those_that_differ_from_onnx_runtime_are_counted(brightest, tmp_path):  # noqa: F811
    predicted = LABELS.copy()
    predicted[:4] += 3
    found = evaluated(brightest, tmp_path, predicted)
    assert (found["test_images"], found["correct"], found["different"]) == (60, 60, 4)
    for name in ("dense", "variant", "onnxruntime"):
        assert numpy.array(found[name]["wall_ns"]).shape == (LOADS, 2)


def test_columns_are_ratios_of_times_in_the_same_turns(brightest, tmp_path):  # noqa: F811
    found = evaluated(brightest, tmp_path, LABELS)
    row = openvino_columns(str(tmp_path / "o.json"))
    assert row["openvino_accuracy"] == 1 and row["openvino_different"] == 0 and row["openvino_refused"] is None
    assert row["openvino"] in found["versions"]["openvino"]
    assert row["openvino_time_low_ms"] <= row["openvino_time_ms"] <= row["openvino_time_high_ms"]
    ratio = numpy.array(found["onnxruntime"]["wall_ns"]) / found["variant"]["wall_ns"]
    assert row["onnxruntime_to_openvino"] == pytest.approx(numpy.exp(numpy.log(numpy.median(ratio, 1)).mean()))


def test_what_openvino_cannot_run_is_refused_with_its_reason(brightest, tmp_path):  # noqa: F811
    model = onnx.load(brightest)
    model.graph.node[1].op_type, model.graph.node[1].domain = "Unheard", "of.nobody"
    model.graph.node[1].input[:] = ["float"]
    model.opset_import.append(onnx.helper.make_opsetid("of.nobody", 1))
    onnx.save(model, tmp_path / "odd.onnx")
    with pytest.raises(RefusedError, match=r"OpenVINO 20\S+ cannot run \S+odd\.onnx: .*No conversion rule .*Unheard"):
        openvino_runtime.load(tmp_path / "odd.onnx", 1)
    write_refusal(tmp_path / "odd.json", "OpenVINO cannot run it")
    assert openvino_columns(str(tmp_path / "odd.json")) == {
        "openvino": None,
        "openvino_refused": "OpenVINO cannot run it",
    }


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "cut.onnx").write_bytes(b"no model")
    with pytest.raises(UserError, match=r"cut\.onnx: damaged"):
        evaluated(str(tmp_path / "cut.onnx"), tmp_path, LABELS)


def test_a_study_says_before_it_begins_that_openvino_is_missing(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "openvino" else name)
    check_runtimes({"evaluation": {"runtimes": ["onnxruntime"]}})
    with pytest.raises(UserError, match=r"evaluation.runtimes: openvino is not installed; run `make openvino`"):
        check_runtimes({"evaluation": {"runtimes": ["onnxruntime", "openvino"]}})


@pytest.mark.slow
def test_a_study_has_its_columns_and_its_table_on_the_page(tmp_path):
    one_rate = TINY.replace("rates: [0.0, 0.5], recovery: [finetune]", "rates: [0.0]")
    config = one_rate.replace("latency_images: 40", "latency_images: 40, runtimes: [onnxruntime, openvino]")
    study = finished_study(tmp_path / "study", config)
    table = pandas.read_csv(study / "results/summary.csv")
    assert table["openvino_refused"].isna().all()
    float32, static = (table[table["mode"] == mode].iloc[0] for mode in ("float32", "static"))
    assert float32["openvino_accuracy"] == pytest.approx(float32["accuracy"], abs=2 / float32["test_images"])
    assert static["openvino_different"] <= 0.1 * static["test_images"]
    assert 'id="openvino"' in (study / "results/report.html").read_text()
