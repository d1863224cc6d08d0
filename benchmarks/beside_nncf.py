"""int8 files of finished studies beside those that NNCF makes of the same float32 files, from the same images.

python benchmarks/beside_nncf.py STUDY ... prints a Markdown table: for each model of each study accuracy on the test
images, and time in turns in one process, of float32, NNCF's (`nncf.quantize`, its defaults), and the study's static and
mixed. NNCF has to be installed beside the requirements: `.venv/bin/pip install nncf`.
"""

import argparse
import functools
import pathlib
import sys
import tempfile

import numpy
import onnx
from tabulate import tabulate

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "scripts"))

from elagage.data import Dataset, Split, numbers_in
from elagage.onnx.quantization import CALIBRATION_BATCH
from elagage.onnx.runtime import load, predictions
from elagage.statistics import loads_interval
from elagage.timing import time_in_turns

CALIBRATION_IMAGES = 512
TIMED_IMAGES = 300


def by_nncf(float32: pathlib.Path, images: numpy.ndarray, output: pathlib.Path) -> None:
    """Write the int8 file that NNCF makes; images: uint8 [n, channels, height, width]."""
    import nncf

    batches = numpy.array_split(images, len(images) // CALIBRATION_BATCH)
    dataset = nncf.Dataset([{"image": batch} for batch in batches])
    model = nncf.quantize(onnx.load(float32), dataset, subset_size=len(batches))
    onnx.save(model, output)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="+", type=pathlib.Path, help="folders of studies")
    parser.add_argument("--test-images", type=int, default=2000)
    parser.add_argument("--modes", nargs="+", default=["static", "mixed"], help="of the study's dense files")
    arguments = parser.parse_args()
    rows = []
    for study in arguments.studies:
        data = study / "results/data"
        dataset = Dataset.read(str(data / "dataset.json"))
        train, test = (
            Split.read(*(str(data / f"{part}_{kind}.npy") for kind in ("images", "labels")))
            for part in ("train", "test")
        )
        few = Split(test.images[: arguments.test_images], test.labels[: arguments.test_images])
        for dense in sorted(study.glob("results/models/*/seed*/dense-float32.onnx")):
            with tempfile.TemporaryDirectory() as folder:
                files = {"float32": dense, "nncf": pathlib.Path(folder, "nncf.onnx")}
                files |= {mode: dense.with_name(f"dense-{mode}.onnx") for mode in arguments.modes}
                by_nncf(dense, train.images[:CALIBRATION_IMAGES], files["nncf"])
                number = numbers_in(load(dense, 1).classes, dataset.classes)
                loading = {name: functools.partial(load, file, 1) for name, file in files.items() if file.exists()}
                accuracy = {
                    name: (number[predictions(make(), few)] == few.labels).mean() for name, make in loading.items()
                }
                times = time_in_turns(loading, test.images[:TIMED_IMAGES])
                for name in loading:
                    ratios = numpy.median(times["float32"].wall / times[name].wall, axis=1)
                    faster = "{:.2f} [{:.2f}, {:.2f}]".format(*loads_interval(ratios))
                    size = files[name].stat().st_size / 1e3
                    rows.append([dense.parts[-3], name, f"{accuracy[name]:.2%}", faster, f"{size:,.0f} kB"])
                    print(*rows[-1], flush=True)
    print(tabulate(rows, ["network", "file", "accuracy", "times as fast as float32", "size"], "github"))


if __name__ == "__main__":
    main()
