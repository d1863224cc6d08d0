"""Time the files of a study on another machine: python elsewhere.pyz, which holds this program and the files.

It needs Python 3.10 or newer, ONNX Runtime and NumPy, and writes a table that the study shows: put it into the folder
`elsewhere` beside the study's configuration, and run the study again.
"""

import argparse
import csv
import io
import json
import os
import pathlib
import platform
import random
import sys
import time
import zipfile

import numpy
import onnxruntime

LOADS = 10  # of each file, over which the images are divided
WARM_UP = 10  # calls after each load that are not counted
TURN = 10  # calls of one file before the next takes its turn
FIRST = "dense"  # the file that the others are compared with


def load(content: bytes, threads: int) -> onnxruntime.InferenceSession:
    """Return a session of the content of an ONNX file."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own have no other class in common
        sys.exit(f"error: ONNX Runtime {onnxruntime.__version__} cannot load a file ({error}); install a newer one")


def time_one_load(contents: dict, images: dict, calls: range, threads: int, generator: random.Random) -> dict:
    """Return the times of each file in ns, int64 [calls], taken turn by turn.

    contents: name -> content of an ONNX file; images: name -> its images, uint8 [n, channels, height, width].
    """
    names = list(contents)
    sessions = {name: load(contents[name], threads) for name in generator.sample(names, len(names))}
    for name, session in sessions.items():
        for call in range(WARM_UP):
            session.run(None, {"image": images[name][call % len(images[name])][None]})
    times = {name: [] for name in names}
    for start in range(calls.start, calls.stop, TURN):
        for name in generator.sample(names, len(names)):
            for call in range(start, min(start + TURN, calls.stop)):
                image = images[name][call % len(images[name])][None]
                before = time.perf_counter_ns()
                sessions[name].run(None, {"image": image})
                times[name].append(time.perf_counter_ns() - before)
    return {name: numpy.array(taken) for name, taken in times.items()}


def classes_of(content: bytes, images: numpy.ndarray, threads: int) -> list:
    """Return the name of the class that a file answers for each image."""
    session = load(content, threads)
    names = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
    return [names[int(session.run(None, {"image": image[None]})[0].argmax())] for image in images]


def machine() -> dict:
    """Return what is known of this machine: its name, its CPU, and the instruction sets that matter for int8."""
    known = {}
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                key, _, value = line.partition(":")
                known.setdefault(key.strip(), value.strip())
    flags = (known.get("flags") or known.get("Features") or "").split()
    matter = ("avx2", "avx512f", "avx512bw", "avx_vnni", "avx512_vnni", "amx_int8", "asimd", "asimddp", "i8mm", "sve")
    return {
        "machine": platform.node() or "another machine",
        "cpu": known.get("model name") or known.get("Model") or platform.processor() or platform.machine(),
        "instruction_set": " ".join(name for name in matter if name in flags) or platform.machine(),
        "onnxruntime": onnxruntime.__version__,
    }


def measure(bundle: zipfile.ZipFile, count: int, threads: int, say=print) -> list:
    """Return a row for each file and load: its median time in ms, and how many times as fast as the dense file it is.

    And on how many images its class differs from that on the machine of the study. count: images that are timed.
    """
    files = json.loads(bundle.read("files.json"))
    arrays = {name: numpy.load(io.BytesIO(bundle.read(name))) for name in {file["images"] for file in files}}
    contents = {file["file"]: bundle.read(file["onnx"]) for file in files}
    images = {file["file"]: arrays[file["images"]] for file in files}
    dense = next(file["file"] for file in files if file["role"] == FIRST)
    here, rows, different = machine(), [], {}
    for file in files:
        name = file["file"]
        found = classes_of(contents[name], images[name][: len(file["predictions"])], threads)
        different[name] = sum(one != other for one, other in zip(found, file["predictions"], strict=True))
        say(f"{name}: {different[name]} of {len(found)} images answered differently here")
    generator, calls = random.Random(0), max(2, -(-count // LOADS))
    for number in range(LOADS):
        times = time_one_load(contents, images, range(number * calls, (number + 1) * calls), threads, generator)
        for file in files:
            taken = times[file["file"]]
            row = {**here, "threads": threads, "file": file["file"], "sha256": file["sha256"], "load": number}
            row["time_ms"] = float(numpy.median(taken)) / 1e6
            row["speedup"] = float(numpy.median(times[dense] / taken))
            row.update(images=LOADS * calls, compared=len(file["predictions"]), different=different[file["file"]])
            rows.append(row)
        say(f"timed {number + 1} of {LOADS} loads")
    return rows


def main() -> int:
    """Write the table, and print where it belongs."""
    parser = argparse.ArgumentParser(description="Time the files of a study on this machine.")
    parser.add_argument("--bundle", type=pathlib.Path, default=pathlib.Path(__file__).parent, help="elsewhere.pyz")
    parser.add_argument("--images", type=int, default=300, help="images to time, one at a time")
    parser.add_argument("--threads", type=int, default=1, help="threads of one inference")
    parser.add_argument("--output", type=pathlib.Path, help="the table; without it the name of this machine")
    arguments = parser.parse_args()
    if arguments.images < 1 or arguments.threads < 1:
        parser.error("--images and --threads have to be 1 or more")
    output = arguments.output or pathlib.Path(f"{machine()['machine']}.csv")
    if not output.absolute().parent.is_dir():
        parser.error(f"--output: {output}: there is no folder {output.absolute().parent}; make it, or name another")
    try:
        with zipfile.ZipFile(arguments.bundle) as bundle:
            rows = measure(bundle, arguments.images, arguments.threads)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        sys.exit(f"error: {arguments.bundle}: {error}; take elsewhere.pyz from the results of a study")
    try:
        with open(output, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        sys.exit(f"error: {output}: cannot be written ({error.strerror}); name another file with --output")
    print(f"Put {output} into the folder 'elsewhere' beside the study's configuration, and run the study again.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
