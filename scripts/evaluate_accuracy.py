"""Predict every test image with each variant of a checkpoint."""

import numpy

from elagage.data import Split, save_array
from elagage.files import write_json
from elagage.job import job
from elagage.onnx.runtime import predictions, session


def evaluate_accuracy(split: Split, variant: str, threads: int, accuracy: str, predicted_path: str) -> None:
    """Write the number of images and of correct predictions (JSON), and each image's prediction, int32 [n] (.npy)."""
    predicted = predictions(session(variant, threads), split)
    save_array(predicted_path, predicted.astype(numpy.int32))
    correct = int((predicted == split.labels).sum())
    write_json(accuracy, {"images": len(split), "correct": correct})
    print(f"{variant}: {correct} of {len(split)} correct")


if "snakemake" in globals():
    with job(snakemake.log[0]):
        test = Split.read(snakemake.input.test_images, snakemake.input.test_labels)
        files = zip(snakemake.input.variants, snakemake.output.accuracy, snakemake.output.predictions, strict=True)
        for variant, accuracy, predicted_path in files:
            evaluate_accuracy(test, variant, snakemake.threads, accuracy, predicted_path)
