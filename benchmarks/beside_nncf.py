"""int8 files of finished studies beside those that NNCF makes of the same float32 files, from the same images.

python benchmarks/beside_nncf.py STUDY ... prints a Markdown table: for each model of each study accuracy on the test
images, and time in turns in one process, of float32, NNCF's (`nncf.quantize`, its defaults), and the study's static and
mixed; with --margin also of `nncf.quantize_with_accuracy_control`, by validation images. NNCF has to be installed
beside the requirements: `.venv/bin/pip install nncf`.
"""

import argparse
import functools
import pathlib
import sys
import tempfile
import time

import numpy
import onnx
from tabulate import tabulate

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "scripts"))

from finished_studies import dense_networks

from elagage.data import Split, numbers_in
from elagage.onnx.quantization import CALIBRATION_BATCH
from elagage.onnx.runtime import load, predictions, session
from elagage.statistics import loads_interval
from elagage.timing import time_in_turns

CALIBRATION_IMAGES = 512
TIMED_IMAGES = 300
VALIDATION_IMAGES = 2000  # of accuracy control: as many as mode mixed takes


def in_batches(images: numpy.ndarray):
    """Return uint8 images [n, channels, height, width] as NNCF takes them."""
    import nncf

    batches = numpy.array_split(images, len(images) // CALIBRATION_BATCH)
    return nncf.Dataset([{"image": batch} for batch in batches])


def by_nncf(float32: pathlib.Path, images: numpy.ndarray, output: pathlib.Path) -> None:
    """Write the int8 file that NNCF makes; images: uint8 [n, channels, height, width]."""
    import nncf

    subset = len(images) // CALIBRATION_BATCH
    onnx.save(nncf.quantize(onnx.load(float32), in_batches(images), subset_size=subset), output)


def by_nncf_within(
    margin: float, float32: pathlib.Path, images: numpy.ndarray, validation: Split, output: pathlib.Path
) -> None:
    """Write the file in which NNCF leaves so many layers in float32 that validation images lose at most the margin.

    margin: in points; images: uint8 [n, channels, height, width], to calibrate with; validation: labels are numbered
    as the file's logits.
    """
    import nncf

    def accuracy(model: onnx.ModelProto, items) -> tuple[float, list[float]]:
        running = session(model.SerializeToString(), 1)
        correct = [float(running.run(None, {"image": image})[0].argmax() == label) for image, label in items]
        return float(numpy.mean(correct)), correct

    subset = len(images) // CALIBRATION_BATCH
    model = nncf.quantize_with_accuracy_control(
        onnx.load(float32),
        in_batches(images),
        nncf.Dataset([*zip(validation.images[:, None], validation.labels, strict=True)]),
        accuracy,
        max_drop=margin / 100,
        subset_size=subset,
    )
    onnx.save(model, output)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="+", type=pathlib.Path, help="folders of studies")
    parser.add_argument("--test-images", type=int, default=2000)
    parser.add_argument("--modes", nargs="+", default=["static", "mixed"], help="of the study's dense files")
    parser.add_argument("--margin", type=float, help="points, for accuracy control")
    parser.add_argument("--models", nargs="+", help="of the studies; without it all")
    arguments = parser.parse_args()
    rows = []
    for name, dense, dataset, splits in dense_networks(arguments.studies, arguments.models):
        images, test = splits["train"].images[:CALIBRATION_IMAGES], splits["test"]
        few = Split(test.images[: arguments.test_images], test.labels[: arguments.test_images])
        with tempfile.TemporaryDirectory() as folder:
            files = {"float32": dense, "nncf": pathlib.Path(folder, "nncf.onnx")}
            files |= {mode: dense.with_name(f"dense-{mode}.onnx") for mode in arguments.modes}
            by_nncf(dense, images, files["nncf"])
            classes = load(dense, 1).classes
            number = numbers_in(classes, dataset.classes)
            if arguments.margin is not None:
                files["nncf, accuracy control"] = pathlib.Path(folder, "control.onnx")
                labels = numbers_in(dataset.classes, classes)[splits["validation"].labels[:VALIDATION_IMAGES]]
                known = Split(splits["validation"].images[:VALIDATION_IMAGES], labels)
                started = time.perf_counter()
                by_nncf_within(arguments.margin, dense, images, known, files["nncf, accuracy control"])
                print(f"accuracy control: {time.perf_counter() - started:.0f} s", flush=True)
            loading = {kind: functools.partial(load, file, 1) for kind, file in files.items() if file.exists()}
            accuracy = {kind: (number[predictions(make(), few)] == few.labels).mean() for kind, make in loading.items()}
            times = time_in_turns(loading, test.images[:TIMED_IMAGES])
            for kind in loading:
                ratios = numpy.median(times["float32"].wall / times[kind].wall, axis=1)
                faster = "{:.2f} [{:.2f}, {:.2f}]".format(*loads_interval(ratios))
                size = files[kind].stat().st_size / 1e3
                rows.append([name, kind, f"{accuracy[kind]:.2%}", faster, f"{size:,.0f} kB"])
                print(*rows[-1], flush=True)
    print(tabulate(rows, ["network", "file", "accuracy", "times as fast as float32", "size"], "github"))


if __name__ == "__main__":
    main()
