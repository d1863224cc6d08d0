"""Classify every test image, and every validation image, with each variant of a checkpoint."""

import numpy

from elagage.data import Dataset, Split, numbers_in, save_array
from elagage.files import write_json
from elagage.job import job
from elagage.onnx.runtime import load, predictions
from elagage.refusals import refusing


def evaluate_accuracy(
    dataset: Dataset,
    test: Split,
    validation: Split,
    onnx_file: str,
    *,
    threads: int,
    accuracy: str,
    predicted: str,
    validation_predicted: str,
) -> None:
    """Write the numbers of images and of correct ones (JSON), and the prediction of each image, int32 [n] (.npy).

    The accuracy is that on test images; predictions on validation images order the variants for the answer. They
    number the classes as the data set does, whatever the order of the file's own class names.
    """
    model = load(onnx_file, threads)
    number = numbers_in(model.classes, dataset.classes)
    classes = number[predictions(model, test)]
    save_array(predicted, classes.astype(numpy.int32))
    save_array(validation_predicted, number[predictions(model, validation)].astype(numpy.int32))
    correct = int((classes == test.labels).sum())
    write_json(accuracy, {"images": len(test), "correct": correct})
    print(f"{onnx_file}: {correct} of {len(test)} correct")


if "snakemake" in globals():
    with job(snakemake.log[0]):
        dataset = Dataset.read(snakemake.input.dataset)
        test, validation = (dataset.split(snakemake.input, name) for name in ("test", "validation"))
        output = snakemake.output
        outputs = zip(output.accuracy, output.predictions, output.validation_predictions, strict=True)
        for onnx_file, paths in zip(snakemake.input.onnx_files, outputs, strict=True):
            with refusing(paths):
                evaluate_accuracy(
                    dataset,
                    test,
                    validation,
                    onnx_file,
                    threads=snakemake.threads,
                    **dict(zip(("accuracy", "predicted", "validation_predicted"), paths, strict=True)),
                )
