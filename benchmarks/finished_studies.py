"""The dense networks of finished studies, with the images that they take: what several benchmarks begin with."""

import pathlib
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from elagage.data import SPLITS, Dataset, Split


class DenseNetwork(NamedTuple):
    """A dense network of a study.

    Attributes:
        name: of the model.
        file: its float32 file; those of other modes lie beside it.
    """

    name: str
    file: pathlib.Path
    dataset: Dataset
    splits: dict[str, Split]


def dense_networks(studies: Iterable[pathlib.Path], models: Collection[str] | None) -> Iterator[DenseNetwork]:
    """Yield the dense networks of the studies, of these models or of all.

    Raises ValueError for a study in which models take images of another geometry than the usual one.
    """
    for study in studies:
        data = study / "results/data"
        if others := [file.parent.name for file in data.glob("*/dataset.json")]:
            raise ValueError(f"{study}: some models take images as {', '.join(others)}, which benchmarks do not")
        dataset = Dataset.read(str(data / "dataset.json"))
        splits = {
            part: Split.read(*(str(data / f"{part}_{kind}.npy") for kind in ("images", "labels"))) for part in SPLITS
        }
        for file in sorted(study.glob("results/models/*/seed*/dense-float32.onnx")):
            if models is None or file.parts[-3] in models:
                yield DenseNetwork(file.parts[-3], file, dataset, splits)
