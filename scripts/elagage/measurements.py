"""What the jobs that evaluate a file wrote, as the columns of the summary."""

import re
from collections.abc import Mapping, Sequence

import numpy

from elagage.files import read_json, reading, refusal
from elagage.statistics import loads_interval, wilson_interval

# In ONNX Runtime's names of those that compute in int8.
INT8_OPERATOR = re.compile("^(Q(Linear|Gemm|Attention)|DynamicQuantize(MatMul|LSTM)|NhwcMaxPool)|Integer")
# Those that compute nothing: they change how values lie in memory, or between int8 and float32.
MOVING = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Transpose", "ReorderInput", "ReorderOutput"}
LISTED, LEAST_SHARE = 6, 0.01  # operators that a row names, at most, and of which share of the time


def accuracy_columns(accuracy_path: str) -> dict:
    """Return the columns of the accuracy on test images."""
    with reading(accuracy_path):
        accuracy = read_json(accuracy_path)
        low, high = wilson_interval(accuracy["correct"], accuracy["images"])
        row = {"accuracy": accuracy["correct"] / accuracy["images"], "accuracy_low": low, "accuracy_high": high}
        return row | {"test_images": accuracy["images"]}


def size_columns(size_path: str) -> dict:
    """Return the columns of sizes and counts."""
    with reading(size_path):
        size = read_json(size_path)
        row: dict = {"sparsity": sparsity(size)}
        row |= {"model_size_bytes": size["bytes"], "packed_size_bytes": size["packed_bytes"]}
        row |= {"xz_size_bytes": size["xz_bytes"], "entropy_bytes": round(size["entropy_bytes"])}
        row |= {"packed_weight_bytes": size["packed_weight_bytes"]}
        row |= {"weight_entropy_bytes": round(size["weight_entropy_bytes"]), "macs": size["macs"]}
        row |= {"torch": size["provenance"]["torch"]}
        row |= {key: size[key] for key in ("weights", "zeros", "int8_weights", "operators", "int8_operators")}
        return row


def time_columns(latency_path: str) -> dict:
    """Return the columns of times in ONNX Runtime."""
    with reading(latency_path):
        latency = read_json(latency_path)
        row: dict = _time("inference_time{}_ms", latency["variant"])
        row |= {"dense_time_ms": _time("{}", latency["dense"])[""], "latency_images": latency["images"]}
        row |= _ratio("speedup{}", latency["dense"], latency["variant"])
        cpu, dense_cpu = (float(numpy.median(latency[name]["cpu_ns"])) / 1e6 for name in ("variant", "dense"))
        row |= {"cpu_time_ms": cpu, "dense_cpu_time_ms": dense_cpu, "machine_busy": latency["machine_busy"]}
        for images, ns in latency["batch_ns"].items():
            row |= _of_loads(f"throughput_batch_{images}{{}}", int(images) * 1e9 / numpy.array(ns))
        row |= _time_shares(latency["operators"])
        row |= {key: latency[key] for key in ("threads", "cpu", "instruction_set", "onnxruntime")}
        return row


def openvino_columns(openvino_path: str) -> dict:
    """Return the columns of a file in OpenVINO; if that cannot run it, only the reason why."""
    reason = refusal(openvino_path)
    if reason is not None:
        return {"openvino": None, "openvino_refused": reason}
    with reading(openvino_path):
        found = read_json(openvino_path)
        return {
            "openvino": found["versions"]["openvino"],
            "openvino_accuracy": found["correct"] / found["test_images"],
            "openvino_different": found["different"],
            **_time("openvino_time{}_ms", found["variant"]),
            **_ratio("openvino_speedup{}", found["dense"], found["variant"]),
            **_ratio("onnxruntime_to_openvino{}", found["onnxruntime"], found["variant"]),
            "openvino_machine_busy": found["machine_busy"],
            "openvino_refused": None,
        }


COLUMNS = {  # kind -> reads its columns
    "accuracy": accuracy_columns,
    "size": size_columns,
    "latency": time_columns,
    "openvino": openvino_columns,
}


def measurements(paths: Mapping[str, str]) -> dict:
    """Return the columns of the summary that are measured, for one variant; paths: of the kinds that the study has."""
    return {name: value for kind in COLUMNS if kind in paths for name, value in COLUMNS[kind](paths[kind]).items()}


def sparsity(size: Mapping) -> float:
    """Return the share of the dense network's weights that are removed with their channels, or zero in the file."""
    provenance = size["provenance"]
    kept = provenance["weights"] / provenance["dense_weights"] if "dense_weights" in provenance else 1
    return 1 - kept * (size["weights"] - size["zeros"]) / size["weights"] if size["weights"] else 0.0


def eager_measurements(eager_path: str) -> dict:
    """Return the columns of the dense model's time in eager PyTorch, and how much faster ONNX Runtime runs it."""
    with reading(eager_path):
        eager = read_json(eager_path)
        return {
            **_time("eager_time{}_ms", eager["eager"]),
            **_ratio("eager_to_onnxruntime{}", eager["eager"], eager["dense"]),
            "eager_machine_busy": eager["machine_busy"],
        }


def _time(column: str, times: Mapping) -> dict[str, float]:
    return _of_loads(column, numpy.array(times["wall_ns"]) / 1e6)


def _time_shares(operators: Mapping[str, float]) -> dict[str, float | str]:
    """Return the columns of where the time goes; operators: as ONNX Runtime names them -> share of the time."""
    named = ", ".join(f"{name} {share:.0%}" for name, share in list(operators.items())[:LISTED] if share >= LEAST_SHARE)
    return {
        "int8_time_share": sum(share for name, share in operators.items() if INT8_OPERATOR.search(name)),
        "moving_time_share": sum(share for name, share in operators.items() if name in MOVING),
        "time_by_operator": named,
    }


def _ratio(column: str, slow: Mapping, fast: Mapping) -> dict[str, float]:
    return _of_loads(column, numpy.array(slow["wall_ns"]) / fast["wall_ns"])


def _of_loads(column: str, values: numpy.ndarray) -> dict[str, float]:
    """Return three columns, of the median of each load's values, [loads, calls], and its interval over the loads."""
    mean, low, high = loads_interval(numpy.median(values, axis=1))
    return {column.format(""): mean, column.format("_low"): low, column.format("_high"): high}


def is_uncompressed(file: Mapping) -> bool:
    """Return whether a row of Plan.files is of a dense float32 network: as it was trained first, or a control."""
    return file["rate"] == 0 and file["mode"] == "float32"


def is_dense(file: Mapping) -> bool:
    """Return whether a row of Plan.files is of a dense float32 network as it was trained first."""
    return is_uncompressed(file) and not file["recovery"]


def costs(files: Sequence[Mapping]) -> dict[str, numpy.ndarray]:
    """Return by objective what each file costs, with its interval: float [n, 3], low, cost and high.

    files: rows with `model`, `rate`, `mode` and the paths `size` and `latency`. Sizes are bytes. A time is in ms: that
    of the model's dense float32 files, whose seeds share a graph, the mean over all jobs that timed one, divided by the
    file's speed-up against it in the same job; so the noise of one job does not count for or against the files that it
    timed. Of a dense float32 file the speed-up is 1.
    """
    rows = [size_columns(row["size"]) | time_columns(row["latency"]) for row in files]
    for file, row in zip(files, rows, strict=True):
        if is_uncompressed(file):
            row |= dict.fromkeys(("speedup_low", "speedup", "speedup_high"), 1.0)
    dense: dict[str, list[float]] = {}
    for file, row in zip(files, rows, strict=True):
        dense.setdefault(file["model"], []).append(row["dense_time_ms"])
    means = {key: float(numpy.exp(numpy.mean(numpy.log(times)))) for key, times in dense.items()}
    times = [
        [means[file["model"]] / row[f"speedup{bound}"] for bound in ("_high", "", "_low")]
        for file, row in zip(files, rows, strict=True)
    ]
    sizes = {
        objective: numpy.repeat([[float(row[column])] for row in rows], 3, axis=1)
        for objective, column in (("file_size", "model_size_bytes"), ("packed_size", "packed_size_bytes"))
    }
    return sizes | {"time": numpy.array(times)}
