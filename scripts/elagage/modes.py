"""Modes of quantization whose ranges are calibrated on training images, and how."""

import os
from typing import NamedTuple

from elagage.files import read_json, reading

# Mode -> largest level of a weight, where weights are on few levels: with 0 and the negative ones 15 and 7.
LARGEST_LEVEL = {"static4": 7, "static3": 3}
CALIBRATED = ("static", "mixed", *LARGEST_LEVEL)  # without training
CALIBRATIONS = ("minmax", "percentile_99.99", "percentile_99.9", "mse", "entropy")  # the methods


class Operators(NamedTuple):
    """What becomes int8."""

    types: list[str] | None  # of operators; None: all that ONNX Runtime can
    float_results: list[str]  # those of them whose results are not rounded


# All, or layers with weights, each with a ReLU that follows, and the matrix products of attention. Results of matrix
# products stay float32 then, because Softmax is slow in int8: a DeiT-Tiny is 1.6 times as fast as in float32 with all,
# 1.5 times if they are rounded, and 2.0 times if they are not.
OPERATORS = {
    "all": Operators(None, []),
    "weighted": Operators(["Conv", "ConvTranspose", "Gemm", "MatMul", "Relu", "Clip"], ["MatMul", "Gemm"]),
}


class Calibration(NamedTuple):
    """How int8 is made: how ranges follow from calibration images, and what becomes int8."""

    method: str  # of CALIBRATIONS
    operators: str  # of OPERATORS
    float32: tuple[str, ...] = ()  # the layers that stay float32, all the same


MINMAX = Calibration("minmax", "all")


def chosen_calibration(choice: str | os.PathLike) -> Calibration:
    """Return the calibration of a file that the rule calibrate or mix has written."""
    with reading(choice):
        chosen = read_json(choice)
        return Calibration(chosen["method"], chosen["operators"], tuple(chosen["float32"]))


def calibration_record(calibration: Calibration, images: int) -> dict:
    """Return what the metadata of a file say of its calibration."""
    record: dict = {"calibration": calibration.method, "quantized_operators": calibration.operators}
    record |= {"float32_layers": calibration.float32} if calibration.float32 else {}
    return record | {"calibration_images": images}
