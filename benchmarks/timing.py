"""How often the interval of a speed-up contains 1 when a file is timed against itself, idle and beside busy loops.

python benchmarks/timing.py times random ResNets; --onnx PATH... files of your own. Prints a Markdown table. About 95 %
should contain 1; `half width` is the median distance of an interval's ends from its middle, so what it can tell apart.
"""

import argparse
import functools
import multiprocessing
import os
import pathlib
import sys
import tempfile

import numpy
import onnx
import onnxruntime

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "scripts"))

from elagage.data import Dataset
from elagage.onnx.graph import with_weights
from elagage.onnx.quantization import quantize
from elagage.onnx.runtime import load, machine
from elagage.pytorch.export import export_graph
from elagage.pytorch.models import build_network
from elagage.statistics import loads_interval
from elagage.timing import OtherWork, time_in_turns

NETWORKS = {"resnet8": (1, 8), "resnet20": (3, 32)}  # -> channels and pixels per side of its images
COPIES = 4  # of the file, as a study of four modes times them; the first is the one that others are compared with


def write_networks(folder: str) -> list[str]:
    """Write each network as float32 and as static int8; return the files."""
    files = []
    for name, (channels, size) in NETWORKS.items():
        dataset = Dataset(
            "noise", list("0123456789"), channels, size, [0.5] * channels, [0.25] * channels, False, {}, {}
        )
        network = build_network(name, 10, channels)
        state = {key: tensor.numpy() for key, tensor in network.state_dict().items()}
        float32 = with_weights(export_graph(network, dataset), state)
        pixels = numpy.random.default_rng(0).integers(0, 256, (64, channels, size, size), dtype=numpy.uint8)
        for mode, model in (("float32", float32), ("static", quantize(float32, "static", pixels))):
            files.append(f"{folder}/{name}-{mode}.onnx")
            onnx.save(model, files[-1])
    return files


def busy_loop() -> None:
    """Take all of a core."""
    while True:
        pass


def measure(path: str, runs: int, images: int) -> str:
    """Time copies of the file so many times; return the cells of the table that this gives."""
    shape = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).get_inputs()[0].shape[1:]
    pixels = numpy.random.default_rng(0).integers(0, 256, (images, *shape), dtype=numpy.uint8)
    copies = {str(copy): functools.partial(load, path, 1) for copy in range(COPIES)}
    intervals, others = [], OtherWork()
    for seed in range(runs):
        first, *rest = (times.wall for times in time_in_turns(copies, pixels, seed=seed).values())
        intervals += [loads_interval(numpy.median(first / wall, axis=1)) for wall in rest]
    middles, lows, highs = numpy.array(intervals).T
    covered = numpy.mean((lows <= 1) & (highs >= 1))
    busy, median = others.share(), numpy.median(first) / 1e6
    share = "unknown" if busy is None else f"{busy:.0%}"
    return (
        f"{median:.3f} | {covered:.1%} of {len(intervals)} | {numpy.median(highs - lows) / 2:.1%} | "
        f"{numpy.abs(middles - 1).max():.1%} | {share}"
    )


def main(files: list[str], runs: int, images: int, loops: list[int]) -> None:
    """Print the table."""
    setting = machine()
    print(f"{setting['cpu']} ({setting['instruction_set']}), {os.cpu_count()} cores; {images} images, one thread\n")
    print("| file | busy loops | ms | contain 1 | half width | farthest middle | others' CPU time |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for path in files or write_networks(folder):
            for count in loops:
                beside = [multiprocessing.Process(target=busy_loop, daemon=True) for _ in range(count)]
                for process in beside:
                    process.start()
                print(f"| {pathlib.Path(path).stem} | {count} | {measure(path, runs, images)} |", flush=True)
                for process in beside:
                    process.kill()
                    process.join()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--onnx", nargs="*", default=[], metavar="PATH", help="files that take uint8 images")
    parser.add_argument("--runs", type=int, default=100, help="of each file, with three intervals each")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--loops", nargs="*", type=int, default=[0, 1, os.cpu_count()], help="busy loops beside it")
    arguments = parser.parse_args()
    main(arguments.onnx, arguments.runs, arguments.images, arguments.loops)
