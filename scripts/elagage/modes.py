"""Modes of quantization whose ranges are calibrated on training images, and how."""

import os
from typing import NamedTuple

from elagage.files import read_json, reading

# Mode -> largest level of a weight, where weights are on few levels: with 0 and the negative ones 15 and 7.
LARGEST_LEVEL = {"static4": 7, "static3": 3}
CALIBRATED = ("static", *LARGEST_LEVEL)  # without training
CALIBRATIONS = ("minmax", "percentile_99.99", "percentile_99.9", "mse", "entropy")  # the methods
# What becomes int8: all that ONNX Runtime can, or layers with weights, each with a ReLU that follows, and the matrix
# products of attention.
OPERATORS = {"all": None, "weighted": ["Conv", "ConvTranspose", "Gemm", "MatMul", "Relu", "Clip"]}


class Calibration(NamedTuple):
    """How ranges follow from calibration images, one of CALIBRATIONS, and what becomes int8, one of OPERATORS."""

    method: str
    operators: str


MINMAX = Calibration("minmax", "all")


def stated_calibration(method: str | None, choice: str | os.PathLike | None) -> Calibration:
    """Return the calibration that the configuration names, or that of a file that the rule calibrate has written."""
    if method is not None:
        return Calibration(method, MINMAX.operators)
    if choice is None:
        return MINMAX
    with reading(choice):
        chosen = read_json(choice)
        return Calibration(chosen["method"], chosen["operators"])


def calibration_record(calibration: Calibration, images: int) -> dict:
    """Return what the metadata of a file say of its calibration."""
    method, operators = calibration
    return {"calibration": method, "quantized_operators": operators, "calibration_images": images}
