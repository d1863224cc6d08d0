"""The summary: one row a variant, its statistics those of the measurements."""

import pathlib

import numpy
import pandas
import pytest

from elagage.errors import UserError
from elagage.files import write_csv, write_json, write_refusal
from elagage.measurements import measurements, sparsity
from summarize import busy_line, busy_note, summarize

PROMISED = {
    *("model", "seed", "scope", "rate", "recovery", "mode", "sparsity", "accuracy", "accuracy_low", "accuracy_high"),
    *("packed_size_bytes", "xz_size_bytes", "entropy_bytes", "packed_weight_bytes", "weight_entropy_bytes", "macs"),
    *("model_size_bytes", "inference_time_ms", "inference_time_low_ms", "inference_time_high_ms", "dense_time_ms"),
    *("cpu_time_ms", "dense_cpu_time_ms", "machine_busy", "latency_images"),
    *("speedup", "speedup_low", "speedup_high", "onnxruntime", "torch", "cpu", "instruction_set"),
}


SETTING = {"cpu": "A CPU", "instruction_set": "avx2", "threads": 1, "onnxruntime": "1.32.0", "images": 50}
SETTING["operators"] = {"QLinearConv": 0.5, "Conv": 0.3, "Transpose": 0.2}


def times(ns) -> dict[str, list]:
    """Return times as their JSON has them, of loads that all took ns, [calls], or ns itself, [loads, calls]."""
    loads = numpy.broadcast_to(ns, (5, len(ns))) if numpy.ndim(ns) == 1 else numpy.array(ns)
    return {"wall_ns": loads.tolist(), "cpu_ns": (loads // 2).tolist()}


def latency(ns, dense_ns, busy: float | None = 0.02, batches: dict | None = None) -> dict:
    """Return the timing of a variant."""
    measured = {"variant": times(ns), "dense": times(dense_ns), "batch_ns": batches or {}}
    return {**SETTING, "machine_busy": busy, **measured}


def measured(
    folder, name: str, correct: int, nanoseconds: list[int], macs: int | None = 40_813_184, **timing
) -> dict[str, str]:
    """Write the three measurements of a variant; the dense model took 4 ms for every image."""
    paths = {kind: str(folder / f"{name}.{kind}.json") for kind in ("accuracy", "size", "latency")}
    paths["file"] = str(folder / f"{name}.onnx")
    write_json(paths["accuracy"], {"images": 1000, "correct": correct})
    counts = {"weights": 400, "zeros": 100, "int8_weights": 300, "operators": 4, "int8_operators": 3}
    packed = {"packed_bytes": 1200, "xz_bytes": 1500, "entropy_bytes": 1100.4, "macs": macs}
    packed |= {"packed_weight_bytes": 1000, "weight_entropy_bytes": 980.4}
    write_json(paths["size"], {"bytes": 5000, **packed, **counts, "provenance": {"torch": "2.14.1"}})
    write_json(paths["latency"], latency(nanoseconds, [4_000_000] * len(nanoseconds), **timing))
    return paths


def compared(folder, variants: list[dict]) -> pathlib.Path:
    """Write the losses of the variants, and return the path."""
    rows = [
        {"file": variant["file"], "loss_points": 0.5, "images_to_tell": None, "became_wrong": 7, "became_right": 2}
        for variant in variants
    ]
    write_csv(folder / "losses.csv", rows)
    return folder / "losses.csv"


def summarized(folder, variants: list[dict]) -> None:
    """Write s.csv and s.md of the variants."""
    eager = {"net/seed0": folder / "eager.json"}
    summarize(variants, eager, compared(folder, variants), folder / "s.csv", folder / "s.md")


@pytest.fixture
def summary(tmp_path):
    """A study of two variants; the second is twice as fast as the dense model."""
    named = {"model": "net", "seed": 0, "scope": "local", "recovery": "none"}
    variants = [
        {**named, "rate": 0.0, "mode": "float32", **measured(tmp_path, "a", 900, [4_000_000] * 50)},
        {
            **named,
            "rate": 0.5,
            "mode": "static",
            **measured(tmp_path, "b", 850, [1_999_999, 2_000_000, 2_000_001] * 20),
        },
    ]
    write_json(
        tmp_path / "eager.json",
        {"eager": times([12_000_000] * 20), "dense": times([4_000_000] * 20), "machine_busy": 0.03},
    )
    outputs = tmp_path / "summary.csv", tmp_path / "summary.md"
    summarize(variants, {"net/seed0": tmp_path / "eager.json"}, compared(tmp_path, variants), *outputs)
    return outputs


def test_every_promised_column_is_there(summary):
    table = pandas.read_csv(summary[0], keep_default_na=False)
    assert len(table) == 2
    assert set(table.columns) >= PROMISED
    assert table["mode"].tolist() == ["float32", "static"]


def test_removed_channels_count_as_sparsity():
    size = {"weights": 400, "zeros": 100, "provenance": {"weights": 400, "dense_weights": 1600}}
    assert sparsity(size) == 1 - 300 / 1600
    # What the forward pass never uses is in no file: of the weights in the file a quarter is zero.
    assert sparsity(size | {"provenance": {"weights": 1600, "dense_weights": 1600}}) == 0.25


def test_the_row_holds_the_statistics_of_the_measurements(summary):
    row = pandas.read_csv(summary[0], keep_default_na=False).iloc[1]
    assert row["sparsity"] == 0.25
    assert row["accuracy"] == 0.85
    assert row["accuracy_low"] < 0.85 < row["accuracy_high"]
    assert row["inference_time_ms"] == pytest.approx(2)
    assert row["speedup"] == pytest.approx(2)
    assert row["speedup_low"] <= row["speedup"] <= row["speedup_high"]
    assert (row["packed_size_bytes"], row["xz_size_bytes"], row["entropy_bytes"]) == (1200, 1500, 1100)
    assert (row["packed_weight_bytes"], row["weight_entropy_bytes"]) == (1000, 980)
    assert row["macs"] == 40_813_184
    assert (row["cpu_time_ms"], row["dense_cpu_time_ms"]) == (1, 2)
    assert row["machine_busy"] == 0.02
    assert row["eager_time_ms"] == pytest.approx(12)
    assert row["eager_machine_busy"] == 0.03
    assert row["eager_to_onnxruntime"] == pytest.approx(3)


def test_the_markdown_is_a_table_that_says_how_it_was_measured(summary):
    text = summary[1].read_text()
    rows = [line for line in text.splitlines() if line.startswith("| net")]
    assert len(rows) == 2
    assert "85.00% [82.65%, 87.08%]" in rows[1]
    assert "| 1.2 " in rows[1] and "| 1.1 " in rows[1] and "| 40.8 " in rows[1]
    for fact in ("A CPU (avx2)", "ONNX Runtime 1.32.0", "3.00 times", "1000 test images", "saves 20.0%"):
        assert fact in text


def test_multiply_accumulates_that_could_not_be_counted_are_called_unknown(tmp_path):
    variant = {"model": "net", "seed": 0, "scope": "local", "recovery": "none", "rate": 0.5, "mode": "static"}
    paths = measured(tmp_path, "a", 900, [4_000_000] * 50, macs=None)
    write_json(tmp_path / "eager.json", {"eager": times([3] * 20), "dense": times([1] * 20), "machine_busy": 0.03})
    summarized(tmp_path, [{**variant, **paths}])
    assert "| unknown " in (tmp_path / "s.md").read_text()
    assert "nan" not in (tmp_path / "s.md").read_text()


@pytest.mark.parametrize(
    ("operator", "column"),
    [
        *((name, "int8_time_share") for name in ("QLinearConv", "QGemm", "ConvInteger", "DynamicQuantizeMatMul")),
        *((name, "moving_time_share") for name in ("DequantizeLinear", "DynamicQuantizeLinear", "Transpose")),
    ],
)
def test_the_share_of_each_operator_that_int8_brings_is_counted(tmp_path, operator, column):
    paths = measured(tmp_path, "a", 900, [4_000_000] * 20)
    write_json(paths["latency"], latency([4_000_000] * 20, [4_000_000] * 20) | {"operators": {operator: 1.0}})
    assert measurements(paths)[column] == 1


def test_files_of_which_openvino_runs_none_are_summarized(tmp_path):
    variant = {"model": "net", "seed": 0, "scope": "local", "recovery": "none", "rate": 0.5, "mode": "static"}
    paths = measured(tmp_path, "a", 900, [4_000_000] * 50) | {"openvino": tmp_path / "a.openvino.json"}
    write_refusal(paths["openvino"], "OpenVINO cannot run it")
    write_json(tmp_path / "eager.json", {"eager": times([3] * 20), "dense": times([1] * 20), "machine_busy": 0.03})
    summarized(tmp_path, [{**variant, **paths}])
    assert "- 1 of 1 rows: OpenVINO cannot run it" in (tmp_path / "s.md").read_text()


def test_the_speedup_is_a_paired_ratio(tmp_path):
    """A machine that slows down for half of the images slows both models: the ratio stays."""
    slow = numpy.repeat([1, 10], 50)
    variant = {"model": "net", "seed": 0, "scope": "local", "recovery": "none", "rate": 0.5, "mode": "static"}
    paths = measured(tmp_path, "a", 900, (1_000_000 * slow).tolist())
    write_json(paths["latency"], latency(1_000_000 * slow, 3_000_000 * slow))
    write_json(tmp_path / "eager.json", {"eager": times([3] * 20), "dense": times([1] * 20), "machine_busy": 0.03})
    summarized(tmp_path, [{**variant, **paths}])
    row = pandas.read_csv(tmp_path / "s.csv").iloc[0]
    assert [row["speedup"], row["speedup_low"], row["speedup_high"]] == pytest.approx([3, 3, 3])


def test_loads_that_differ_widen_the_interval_of_time_and_speedup(tmp_path):
    """However many images each of them had."""
    loads = numpy.array([[0.9], [0.95], [1], [1.05], [1.1]])
    paths = measured(tmp_path, "a", 900, [1] * 50)
    write_json(paths["latency"], latency(1_000_000 * loads.repeat(1000, axis=1), numpy.full((5, 1000), 3_000_000)))
    row = measurements(paths)
    assert row["speedup_low"] < 2.9 and row["speedup_high"] > 3.1
    assert row["inference_time_low_ms"] < 0.95 and row["inference_time_high_ms"] > 1.05


def test_batches_have_columns_of_images_per_second(tmp_path):
    named = {"model": "net", "seed": 0, "scope": "local", "recovery": "none", "rate": 0.5, "mode": "static"}
    batches = {"8": [[2_000_000] * 4] * 5, "64": [[8_000_000] * 2] * 5}
    variant = {**named, **measured(tmp_path, "a", 900, [500_000] * 50, batches=batches)}
    write_json(tmp_path / "eager.json", {"eager": times([3] * 20), "dense": times([1] * 20), "machine_busy": 0.03})
    summarized(tmp_path, [variant])
    row = pandas.read_csv(tmp_path / "s.csv").iloc[0]
    assert [row["throughput_batch_8"], row["throughput_batch_64"]] == pytest.approx([4000, 8000])
    assert row["throughput_batch_64_low"] <= row["throughput_batch_64"] <= row["throughput_batch_64_high"]
    text = (tmp_path / "s.md").read_text()
    assert "images/s in batches of 64" in text and "| 8000 [8000, 8000] " in text


@pytest.mark.parametrize(
    ("shares", "words"),
    [
        ([0.02, 0.5], "26% of the machine's CPU time (median; at most 50%) while models were timed; in 1 of 2 rows"),
        ([0.02, 0.03], "in 0 of 2 rows more than 10%"),
        ([None, None], "known on Linux only"),
    ],
)
def test_the_summary_says_how_busy_the_machine_was(shares, words):
    assert words in busy_line(pandas.DataFrame({"machine_busy": shares}))


@pytest.mark.parametrize("kind", ["accuracy", "size", "latency"])
@pytest.mark.parametrize("content", ["", "text", "[]", '{"name": "digits"}'])
def test_a_damaged_measurement_is_named(tmp_path, kind, content):
    paths = measured(tmp_path, "a", 900, [4_000_000] * 20)
    measurements(paths)
    pathlib.Path(paths[kind]).write_text(content)
    with pytest.raises(UserError, match=rf"a\.{kind}\.json: damaged"):
        measurements(paths)


@pytest.mark.parametrize(("shares", "said"), [([0.01, 0.02], None), ([0.01, 0.5], "up to 50% of"), ([None], None)])
def test_what_to_do_about_a_busy_machine_is_said_once(shares, said):
    note = busy_note(pandas.DataFrame({"machine_busy": shares, "eager_machine_busy": shares}))
    assert note is None if said is None else said in note
