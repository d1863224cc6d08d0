"""What the number and the draw of calibration images do to the accuracy of static.

python benchmarks/calibration_images.py STUDY ... prints a Markdown table: for each dense network of finished studies
the points lost on test images against float32, the mean and the range over draws of so many training images, with
minmax and with the calibration that the study chose.
"""

import argparse
import pathlib
import sys

import numpy
import onnx
from tabulate import tabulate

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "scripts"))

from finished_studies import dense_networks

from elagage.data import Split, numbers_in
from elagage.modes import MINMAX, chosen_calibration
from elagage.onnx.quantization import quantize
from elagage.onnx.runtime import Model, load, predictions, session


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="+", type=pathlib.Path, help="folders of studies")
    parser.add_argument("--images", nargs="+", type=int, default=[8, 32, 128, 512], help="numbers of images")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--test-images", type=int, default=2000)
    parser.add_argument("--models", nargs="+", help="of the studies; without it all")
    arguments = parser.parse_args()
    rows = []
    for name, dense, dataset, splits in dense_networks(arguments.studies, arguments.models):
        train, test = splits["train"], splits["test"]
        few = Split(test.images[: arguments.test_images], test.labels[: arguments.test_images])
        number = numbers_in(load(dense, 1).classes, dataset.classes)
        before = (number[predictions(load(dense, 1), few)] == few.labels).mean()
        chosen = chosen_calibration(str(dense.with_name("calibration.json")))
        for calibration in dict.fromkeys([MINMAX, chosen]):
            row = [name, f"{calibration.method}, {calibration.operators}"]
            for count in arguments.images:
                lost = []
                for draw in range(arguments.draws):
                    drawn = numpy.random.default_rng(draw).choice(len(train), count, replace=False)
                    images = numpy.array(train.images[numpy.sort(drawn)])
                    int8 = quantize(onnx.load(dense), "static", images, calibration=calibration)
                    model = Model(session(int8.SerializeToString(), 1))
                    lost.append(100 * (before - (number[predictions(model, few)] == few.labels).mean()))
                row.append(f"{numpy.mean(lost):.2f} [{min(lost):.2f}, {max(lost):.2f}]")
            rows.append(row)
            print(*row, flush=True)
    headers = ["network", "calibration", *(f"{count} images" for count in arguments.images)]
    print(tabulate(rows, headers, "github", disable_numparse=True))


if __name__ == "__main__":
    main()
