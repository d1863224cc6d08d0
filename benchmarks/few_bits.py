"""What weights on few levels lose and save: modes static, static4 and static3 of the checkpoints of finished studies.

python benchmarks/few_bits.py STUDY... prints a Markdown table for the checkpoints that all these studies have (another
seed each, say): mean points of test accuracy lost against the same checkpoint in float32, and mean sizes. `nearest` is
the mode with each weight at its nearest level, whatever the inputs of its layer.
"""

import argparse
import contextlib
import functools
import pathlib
import sys
from unittest import mock

import numpy
import onnx
import onnx_ir

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "scripts"))

from elagage.checkpoints import read_checkpoint
from elagage.data import Dataset, Split
from elagage.modes import CALIBRATED, LARGEST_LEVEL
from elagage.onnx import few_bits
from elagage.onnx.deployed import write_deployed
from elagage.onnx.graph import with_weights
from elagage.onnx.quantization import quantize
from elagage.onnx.runtime import load, predictions
from elagage.onnx.tensors import initializers
from elagage.packing.pack import pack
from elagage.rounding import round_weight

CALIBRATION = 512  # images


class Study:
    """The results of a study of one model and seed."""

    def __init__(self, folder: pathlib.Path):
        (self.folder,) = (folder / "results/models").glob("*/seed*")
        data = folder / "results/data"
        self.dataset = Dataset.read(data / "dataset.json")
        self.train, self.test = (
            Split.read(data / f"{name}_images.npy", data / f"{name}_labels.npy") for name in ("train", "test")
        )

    @property
    def checkpoints(self) -> list[str]:
        """The dense checkpoint and the pruned ones."""
        files = sorted(self.folder.glob("*/*/*.safetensors"))
        names = [str(file.relative_to(self.folder).with_suffix("")) for file in files]
        return ["dense", *(name for name in names if not name.startswith("control/"))]

    def measure(self, checkpoint: str, output: pathlib.Path) -> dict[str, tuple[float, float, float]]:
        """Return accuracy in percent, bytes of the file and bytes of the packed file for each mode."""
        scope, *_ = path = checkpoint.split("/")
        own = self.folder.joinpath(*path[:-1]) / "none.graph.onnx"
        graph = own if scope == "channel" else self.folder.parent / "graph.onnx"
        state, _ = read_checkpoint(self.folder / f"{checkpoint}.safetensors")
        float32 = with_weights(onnx_ir.load(graph), state)
        images = self.train.images[:CALIBRATION]
        models = {"float32": lambda: float32}
        for mode in CALIBRATED:
            models[mode] = functools.partial(quantize, float32, mode, images)
            if mode in LARGEST_LEVEL:
                models[f"{mode}, nearest"] = functools.partial(nearest, float32, mode, images)
        return {name: self._measured(make(), output) for name, make in models.items()}

    def _measured(self, model: onnx.ModelProto, output: pathlib.Path) -> tuple[float, float, float]:
        write_deployed(output, model, self.dataset, {})
        content = output.read_bytes()
        correct = predictions(load(output, 1), self.test) == self.test.labels
        return 100 * correct.mean(), len(content), len(pack(content, initializers(content)))


def nearest(model: onnx.ModelProto, mode: str, images: numpy.ndarray) -> onnx.ModelProto:
    """Return the model in a mode with each weight at its nearest level."""
    with mock.patch.object(
        few_bits, "round_weight", lambda weight, _, largest, __: round_weight(weight, None, largest)
    ):
        return quantize(model, mode, images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", type=pathlib.Path, nargs="+", help="folder with the results of a study of one seed")
    parser.add_argument("--checkpoints", nargs="+", help="such as dense global/0.6/rewind, instead of all")
    parser.add_argument(
        "--output", type=pathlib.Path, default=pathlib.Path("few_bits.onnx"), help="a file to overwrite"
    )
    arguments = parser.parse_args()
    studies = [Study(folder) for folder in arguments.studies]
    print("| checkpoint | mode | points lost | by study | file (kB) | packed (kB) |\n|---|---|---|---|---|---|")
    for checkpoint in arguments.checkpoints or studies[0].checkpoints:
        with contextlib.redirect_stdout(sys.stderr):  # what quantizing tells
            measured = [study.measure(checkpoint, arguments.output) for study in studies]
        for mode in measured[0]:
            lost = [each["float32"][0] - each[mode][0] for each in measured]
            size, packed = (numpy.mean([each[mode][place] for each in measured]) / 1000 for place in (1, 2))
            each = " ".join(f"{points:.2f}" for points in lost)
            print(
                f"| {checkpoint} | {mode} | {numpy.mean(lost):.2f} | {each} | {size:.1f} | {packed:.1f} |", flush=True
            )
    arguments.output.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
