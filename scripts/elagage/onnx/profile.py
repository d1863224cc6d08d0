"""Where the time of a file goes, by operator, as ONNX Runtime's profiler tells.

https://onnxruntime.ai/docs/performance/tune-performance/profiling-tools.html
"""

import collections
import json
import os
import pathlib
import tempfile

import numpy
import onnxruntime

IMAGES = 20  # one at a time
WARM_UP = 2
KERNEL = "_kernel_time"  # at the end of an event's name


def time_by_operator(path: str | os.PathLike, images: numpy.ndarray, threads: int) -> dict[str, float]:
    """Return the share of the time of each operator that ONNX Runtime runs, the largest first.

    images: uint8 [n, channels, height, width], of which the first are classified one by one. The operators are those
    after ONNX Runtime's optimization: `QLinearConv` multiplies int8, `QuantizeLinear`, `DequantizeLinear` and
    `Transpose` only change how values lie in memory.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.enable_profiling = True
        options.profile_file_prefix = str(pathlib.Path(folder, "profile"))
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        calls = images[numpy.arange(WARM_UP + IMAGES) % len(images)]
        for image in calls:
            session.run(None, {"image": image[None]})
        events = json.loads(pathlib.Path(session.end_profiling()).read_text(encoding="utf-8"))
    durations: dict[tuple[str, str], list[int]] = collections.defaultdict(list)  # of each node, in microseconds
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(KERNEL):
            durations[event["name"], event["args"]["op_name"]].append(event["dur"])
    times: dict[str, float] = collections.defaultdict(float)
    for (_, operator), taken in durations.items():
        if len(taken) > WARM_UP:  # of a branch that few images take, nothing is known
            times[operator] += float(numpy.median(taken[WARM_UP:]))  # what other programs disturb is no part of it
    total = sum(times.values()) or 1.0
    return {name: round(times[name] / total, 4) for name in sorted(times, key=lambda name: -times[name])}
