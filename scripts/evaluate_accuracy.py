"""Classify every test image with each variant of a checkpoint."""

import numpy

from elagage.data import Dataset, Split, numbers_in, save_array
from elagage.files import write_json
from elagage.job import job
from elagage.onnx.runtime import load_classifier, predictions


def evaluate_accuracy(
    dataset: Dataset, test: Split, onnx_file: str, *, threads: int, accuracy: str, predicted: str
) -> None:
    """Write the number of images and of correct predictions (JSON), and each image's prediction, int32 [n] (.npy).

    Predictions number the classes as the data set does, whatever the order of the file's own class names.
    """
    model, names = load_classifier(onnx_file, threads)
    classes = numbers_in(names, dataset.classes)[predictions(model, test)]
    save_array(predicted, classes.astype(numpy.int32))
    correct = int((classes == test.labels).sum())
    write_json(accuracy, {"images": len(test), "correct": correct})
    print(f"{onnx_file}: {correct} of {len(test)} correct")


if "snakemake" in globals():
    with job(snakemake.log[0]):
        dataset = Dataset.read(snakemake.input.dataset)
        test = dataset.split(snakemake.input, "test")
        output = snakemake.output
        files = zip(snakemake.input.onnx_files, output.accuracy, output.predictions, strict=True)
        for onnx_file, accuracy, predicted in files:
            evaluate_accuracy(
                dataset, test, onnx_file, threads=snakemake.threads, accuracy=accuracy, predicted=predicted
            )
